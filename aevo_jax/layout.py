"""Where the files that people write lie: at the root of a checkout, or inside an installed package.

A checkout has launch/, configs/, constitution.gin and substrate/ at its root. A wheel installs
nothing but `aevo_jax`, so hatch_build.py puts them inside the package: `_launch`,
`_configs/configs`, `_constitution.gin`, `_substrate`. Everything else asks this module. Gin files
are spelled the same in both (`configs/campaigns/quickstart.gin`), from any working directory.
"""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent

# name in a checkout -> place inside the installed package
_INSTALLED = {
  'launch': '_launch',
  'configs': '_configs/configs',
  'constitution.gin': '_constitution.gin',
  'substrate': '_substrate',
}


class LayoutError(FileNotFoundError):
  """A file of the project is not where a checkout or a wheel has it."""


def is_installed(package: pathlib.Path = PACKAGE) -> bool:
  """Tells an installed wheel from a checkout (editable install included)."""
  # A pyproject.toml beside the package proves nothing: badly built wheels drop one into
  # site-packages.
  return (package / '_launch').is_dir()


def checkout_root(package: pathlib.Path = PACKAGE) -> pathlib.Path | None:
  """Returns the checkout's root folder, or None in an installed wheel."""
  return None if is_installed(package) else package.parent


def root_file(name: str, package: pathlib.Path = PACKAGE) -> pathlib.Path:
  """Finds what people write, in a checkout or an installed wheel.

  Args:
    name: 'launch', 'configs', 'constitution.gin' or 'substrate'.
    package: the folder `aevo_jax` to search around; the one that runs by default.

  Returns:
    An absolute path that exists.

  Raises:
    ValueError: `name` is none of the four.
    LayoutError: the checkout or the installation lacks it.
  """
  if name not in _INSTALLED:
    raise ValueError(f'{name!r} is not part of the layout; expected one of {", ".join(_INSTALLED)}')
  root = checkout_root(package)
  path = package / _INSTALLED[name]
  if root is not None:
    path = root / name
  if path.exists():
    return path
  if root is None:
    raise LayoutError(
      f'this installation of aevo-jax is broken: {path} is missing; reinstall the wheel'
    )
  if not (root / 'pyproject.toml').is_file():
    raise LayoutError(
      f'{package} is neither in a checkout (no {root / "pyproject.toml"}) nor a complete '
      'installation'
      f' (no {package / "_launch"}): install the wheel, or clone the repository and run '
      '`make setup`'
    )
  raise LayoutError(
    f'this checkout is incomplete: {path} is missing; restore it with `git checkout -- {name}`'
  )


def search_paths(package: pathlib.Path = PACKAGE) -> tuple[str, ...]:
  """Returns the folders in which gin finds `configs/...`, in includes and in `--gin_file` alike.

  Args:
    package: see `root_file`.

  Raises:
    LayoutError: configs/ is missing.
  """
  return (str(root_file('configs', package).parent),)
