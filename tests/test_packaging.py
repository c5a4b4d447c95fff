"""What set-up and the wheel promise: one top-level name, the checkout's folders inside it, a lock
without hosts.
"""

import itertools
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# checkout folder -> place in the wheel, as the design has it
PLACES = {
  'launch': 'aevo_jax/_launch',
  'configs': 'aevo_jax/_configs/configs',
  'substrate': 'aevo_jax/_substrate',
}


@pytest.fixture(scope='module')
def project() -> dict:
  return tomllib.loads((ROOT / 'pyproject.toml').read_text())


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('wheel')
  done = subprocess.run(
    [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(folder)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  (path,) = folder.glob('*.whl')
  return path


def files_below(folder: pathlib.Path) -> set[str]:
  paths = (path for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts)
  return {path.relative_to(folder).as_posix() for path in paths}


def test_the_wheel_installs_one_top_level_name(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split('/')[0] for name in names} == {'aevo_jax', 'aevo_jax-0.1.0.dist-info'}
  assert not [name for name in names if '__pycache__' in name or name.endswith('.pyc')]


def test_the_wheel_holds_the_checkouts_folders(wheel):
  archive = zipfile.ZipFile(wheel)
  names = set(archive.namelist())
  for source, place in PLACES.items():
    inside = {name.removeprefix(f'{place}/') for name in names if name.startswith(f'{place}/')}
    assert inside == files_below(ROOT / source) and inside, source
  assert archive.read('aevo_jax/_constitution.gin') == (ROOT / 'constitution.gin').read_bytes()
  for module in files_below(ROOT / 'aevo_jax'):
    assert f'aevo_jax/{module}' in names


def test_the_wheel_says_what_it_needs(wheel, project):
  archive = zipfile.ZipFile(wheel)
  metadata = archive.read('aevo_jax-0.1.0.dist-info/METADATA').decode()
  assert re.search(r'^Requires-Python: >=3\.12$', metadata, re.M)
  assert re.search(r'^License-Expression: Apache-2\.0$', metadata, re.M)
  needed = {
    line for line in re.findall(r'^Requires-Dist: (.*)$', metadata, re.M) if 'extra ==' not in line
  }
  assert {re.match(r'[\w-]+', line)[0] for line in needed} == {
    *('absl-py', 'annotated-types', 'flax', 'gin-config', 'grain', 'jax', 'jaxtyping', 'jinja2'),
    *('matplotlib', 'numpy', 'optax', 'orbax-checkpoint', 'pyyaml', 'rich', 'safetensors', 'scipy'),
    *('tensorboard', 'tensorstore', 'tokenizers'),
  }
  assert archive.read('aevo_jax-0.1.0.dist-info/entry_points.txt').decode().split() == [
    *('[console_scripts]', 'aevo', '=', 'aevo_jax.cli:main'),
  ]


def test_the_editable_install_exposes_one_top_level_name(tmp_path):
  """Built from the real tree by the backend itself: no copies of launch/, no folder of the checkout
  on sys.path.
  """
  program = f'from hatchling.build import build_editable; print(build_editable({str(tmp_path)!r}))'
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True, capture_output=True)
  (path,) = tmp_path.glob('*.whl')
  archive = zipfile.ZipFile(path)
  loose = {name for name in archive.namelist() if '.dist-info/' not in name}
  assert loose == {'_editable_impl_aevo_jax.pth', '_editable_impl_aevo_jax.py'}
  assert (
    archive.read('_editable_impl_aevo_jax.pth').decode().strip() == 'import _editable_impl_aevo_jax'
  )
  mapped = re.findall(r"map_module\('([^']*)'", archive.read('_editable_impl_aevo_jax.py').decode())
  assert mapped == ['aevo_jax']


def test_every_dependency_is_locked_with_hashes(project):
  lock = (ROOT / 'requirements.lock').read_text()
  entries = re.findall(
    r'^([a-z0-9][\w.-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$', lock, re.M
  )
  assert len(entries) == len(re.findall(r'^[^\s#]', lock, re.M))
  locked = {name for name, _, _ in entries}
  groups = [
    project['project']['dependencies'],
    project['project']['optional-dependencies']['test'],
    project['build-system']['requires'],
  ]
  for requirement in itertools.chain.from_iterable(groups):
    assert re.match(r'[\w-]+', requirement)[0] in locked, (
      f'{requirement} is not in requirements.lock: run make lock'
    )


def test_the_lock_names_no_place():
  lock = (ROOT / 'requirements.lock').read_text()
  assert not re.findall(r'://|^-|[ =](?:/|file:)|\bindex-url\b|\bfind-links\b', lock, re.M)


def test_the_default_target_lists_the_targets():
  done = subprocess.run(
    ['make', '--no-print-directory'], cwd=ROOT, capture_output=True, text=True, check=True
  )
  listed = re.findall(r'^  make (\S+)', done.stdout, re.M)
  assert {'setup', 'demo', 'smoke', 'test', 'vllm', 'lock', 'wheel', 'clean', 'help'} <= set(listed)


def test_ci_is_executable():
  assert (ROOT / '.ci' / 'run').stat().st_mode & stat.S_IXUSR


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
  """Installs 650 MB (hard links where uv's cache allows) and runs the console command away from any
  checkout.
  """
  uv = shutil.which(ROOT / '.bootstrap' / 'bin' / 'uv') or shutil.which('uv')
  if uv is None:
    pytest.skip('needs uv: run through `make test-all`')
  environment = {
    key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'VIRTUAL_ENV')
  }
  empty, elsewhere = tmp_path / 'empty', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  subprocess.run(
    [uv, 'venv', '-q', '--python', sys.executable, str(empty)], check=True, env=environment
  )
  install = [
    uv,
    'pip',
    'install',
    '-q',
    '-p',
    str(empty / 'bin' / 'python'),
    '-c',
    str(ROOT / 'requirements.lock'),
    str(wheel),
  ]
  subprocess.run(install, check=True, env=environment)

  def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      [str(empty / 'bin' / command[0]), *command[1:]],
      cwd=elsewhere,
      env=environment,
      capture_output=True,
      text=True,
    )

  helped = run('aevo', '--help')
  assert helped.returncode == 0, helped.stderr
  for path in (ROOT / 'launch').glob('[!_]*.py'):
    assert re.search(rf'^  {path.stem} +\S', helped.stdout, re.M)
  rows = json.loads(run('aevo', 'doctor', '--json').stdout)['rows']
  assert next(row for row in rows if row['name'] == 'jax')['found']
  program = (
    'import pathlib\nfrom aevo_jax import layout\n'
    'assert layout.is_installed()\n'
    '(folder,) = layout.search_paths()\n'
    "assert list(pathlib.Path(folder).glob('configs/**/*.gin'))\n"
    'try:\n    import launch\nexcept ModuleNotFoundError:\n    print("no launch")\n'
  )
  assert run('python', '-c', program).stdout == 'no launch\n'
