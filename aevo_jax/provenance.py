"""Which code ran: the commit of a checkout, or the version of an installed wheel."""

import pathlib
import subprocess
from typing import NamedTuple

from aevo_jax import __version__, layout

# Of a checkout, what a change of makes another program.
CODE = ('aevo_jax', 'launch', 'configs', 'constitution.gin')


class Code(NamedTuple):
  """The code that runs.

  Attributes:
    version: of the package.
    commit: of the checkout; None where there is no git repository.
    dirty: whether the code differs from the commit; False where there is none.
  """

  version: str
  commit: str | None
  dirty: bool

  def words(self) -> str:
    """Names the code in one cell of a table."""
    if self.commit is None:
      return f'aevo_jax {self.version}, of no git commit'
    if self.dirty:
      return f'{self.commit}, changed since'
    return self.commit


def of_package(package: pathlib.Path = layout.PACKAGE) -> Code:
  """Asks git about the code.

  Args:
    package: the folder `aevo_jax`; the one that runs by default.

  Returns:
    Its version, and its commit where it lies in a checkout.
  """
  root = layout.checkout_root(package)
  if root is None or not (root / '.git').exists():
    return Code(__version__, None, dirty=False)
  commit = _git(root, 'rev-parse', 'HEAD')
  changed = _git(root, 'status', '--porcelain', '--', *CODE)
  if commit is None or changed is None:
    return Code(__version__, None, dirty=False)
  return Code(__version__, commit, dirty=bool(changed))


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  """Returns what git prints, None where it cannot be asked."""
  try:
    done = subprocess.run(
      ['git', '-C', str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
