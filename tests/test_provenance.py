"""The code that runs is named by its commit, and a change since is said."""

import subprocess

import pytest

from aevo_jax import __version__, provenance


@pytest.fixture
def package(tmp_path):
  """A checkout with one commit of aevo_jax."""
  package = tmp_path / 'aevo_jax'
  package.mkdir()
  (package / 'code.py').write_text('x = 1\n')
  (tmp_path / 'pyproject.toml').touch()
  for arguments in (
    ('init', '-q'),
    ('add', '.'),
    ('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-q', '-m', 'x'),
  ):
    subprocess.run(['git', '-C', tmp_path, *arguments], check=True)
  return package


def test_a_commit_and_what_changed_since(package):
  clean = provenance.of_package(package)
  head = subprocess.check_output(['git', '-C', package, 'rev-parse', 'HEAD'], text=True).strip()
  assert clean == (__version__, head, False) and clean.words() == head
  (package.parent / 'notes.txt').write_text('no code')
  assert not provenance.of_package(package).dirty
  (package / 'new.py').write_text('y = 2\n')
  changed = provenance.of_package(package)
  assert changed.dirty and changed.words() == f'{head}, changed since'


def test_without_git_no_commit_is_made_up(tmp_path):
  package = tmp_path / 'aevo_jax'
  package.mkdir()
  assert provenance.of_package(package).words() == f'aevo_jax {__version__}, of no git commit'
  (tmp_path / '.git').mkdir()  # broken: git cannot answer
  assert provenance.of_package(package).commit is None
  (package / '_launch').mkdir()  # an installed wheel
  assert provenance.of_package(package).commit is None
