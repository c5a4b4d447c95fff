"""The `aevo` command: what it lists and refuses, how it hands over, and that it stays light."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from aevo_jax import cli, layout

ROOT = pathlib.Path(__file__).resolve().parents[1]


def aevo(*arguments: str, cwd: pathlib.Path | str = '/') -> subprocess.CompletedProcess[str]:
  """The command in its own process, from another folder by default: nothing may depend on the
  working directory.
  """
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', *arguments],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.fixture
def package(tmp_path):
  """The package's folder in a checkout of one app that prints what it sees and exits with 7."""
  launch = tmp_path / 'launch'
  launch.mkdir()
  (tmp_path / 'pyproject.toml').touch()
  (launch / 'campaign.py').write_text(
    '"""Run a campaign.\n\nMore words.\n"""\n'
    'import json, sys\n'
    'from absl import flags\n'
    'from aevo_jax import command\n'
    "COMMAND = command.Command('campaign', __doc__, takes=('RUN',))\n"
    "_N = flags.DEFINE_integer('rounds_of_the_test', 0, 'how many', flag_values=COMMAND.flags)\n"
    '@COMMAND\n'
    'def main(arguments):\n'
    "  print(json.dumps({'arguments': arguments, 'n': _N.value, 'line': COMMAND.line}))\n"
    '  sys.exit(7)\n'
  )
  (launch / '_shared.py').write_text('raise AssertionError("not a command")\n')
  (launch / 'slurm').mkdir()
  package = tmp_path / 'aevo_jax'
  package.mkdir()
  return package


def test_help_lists_every_app_with_its_first_line():
  done = aevo('--help')
  assert done.returncode == 0
  apps = [path for path in (ROOT / 'launch').glob('*.py') if not path.name.startswith('_')]
  assert apps
  for path in apps:
    first_line = path.read_text().split('"""', 2)[1].split('\n', 1)[0]
    assert first_line
    assert any(
      line.split() == [path.stem, *first_line.split()] for line in done.stdout.splitlines()
    ), path.stem


def test_help_imports_neither_jax_nor_absl_nor_gin():
  program = (
    'import sys; from aevo_jax import cli; cli.main(["--help"]); '
    'print(sorted({"jax", "absl", "gin", "flax", "numpy"} & set(sys.modules)), file=sys.stderr)'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 0
  assert done.stderr.strip() == '[]'


def test_version():
  assert aevo('--version').stdout == 'aevo-jax 0.1.0\n'


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((), 'usage: aevo COMMAND'),
    (('docter',), 'did you mean `aevo doctor`?'),
    (('zzzz',), "unknown command 'zzzz'; the commands are"),
    (('impart',), "unknown command 'impart'; the commands are"),
    (('help', 'docter'), 'did you mean `aevo doctor`?'),
    (('--gin_file=x.gin', 'campaign'), 'flags come after the command'),
  ],
)
def test_a_missing_or_unknown_command_exits_with_2(arguments, said):
  done = aevo(*arguments)
  assert (done.returncode, done.stdout) == (2, '')
  assert said in done.stderr


def test_flags_and_exit_code_are_the_apps_own(package, capsys):
  """A second call in the same process starts from the defaults."""
  for argv, count in ((['RUN', '--rounds_of_the_test=3'], 3), (['RUN'], 0)):
    assert cli.main(['campaign', *argv], package) == 7
    assert json.loads(capsys.readouterr().out) == {
      'arguments': ['RUN'],
      'n': count,
      'line': ' '.join(['aevo', 'campaign', *argv]),
    }


@pytest.mark.parametrize('name', sorted(cli.commands()))
def test_help_of_a_command_lists_the_gin_flags_that_it_reads(name, capsys):
  assert cli.main([name, '--help']) == 0
  text = capsys.readouterr().out
  reads_gin = 'takes no gin flags' not in text
  assert ('--gin_file' in text) is ('--gin_bindings' in text) is reads_gin
  assert text.startswith(cli.summary(cli.commands()[name]))
  assert cli.main(['help', name]) == 0 and capsys.readouterr().out == text


def test_only_public_files_are_commands(package):
  commands = cli.commands(package)
  assert commands == {'campaign': package.parent / 'launch' / 'campaign.py'}
  assert cli.summary(commands['campaign']) == 'Run a campaign.'


def test_a_missing_launch_folder_is_named(package, capsys):
  launch = package.parent / 'launch'
  launch.rename(launch.with_name('elsewhere'))
  assert cli.main(['campaign'], package) == 2
  assert f'{launch} is missing' in capsys.readouterr().err


def test_layout_in_a_checkout_and_in_a_wheel(tmp_path):
  package = tmp_path / 'aevo_jax'
  package.mkdir()

  with pytest.raises(layout.LayoutError, match='neither in a checkout'):
    layout.root_file('configs', package)
  (tmp_path / 'pyproject.toml').touch()
  with pytest.raises(layout.LayoutError, match='git checkout -- configs'):
    layout.root_file('configs', package)
  (tmp_path / 'configs' / 'campaigns').mkdir(parents=True)
  (tmp_path / 'configs' / 'campaigns' / 'demo.gin').touch()
  assert layout.checkout_root(package) == tmp_path
  assert layout.search_paths(package) == (str(tmp_path),)

  # The installed package wins even where a stray pyproject.toml and configs/ lie beside it in
  # site-packages.
  (package / '_launch').mkdir()
  with pytest.raises(layout.LayoutError, match='installation of aevo-jax is broken'):
    layout.search_paths(package)
  (package / '_configs' / 'configs' / 'campaigns').mkdir(parents=True)
  (package / '_configs' / 'configs' / 'campaigns' / 'demo.gin').touch()
  assert layout.checkout_root(package) is None
  (folder,) = layout.search_paths(package)
  assert pathlib.Path(folder).is_relative_to(package)
  assert pathlib.Path(folder, 'configs/campaigns/demo.gin').is_file()

  with pytest.raises(ValueError, match='expected one of launch'):
    layout.root_file('lunch')


def test_doctor_says_what_the_machine_offers(tmp_path):
  done = aevo('doctor', '--json', f'--run={tmp_path / "not" / "yet"}')
  report = json.loads(done.stdout)
  rows = {row['name']: row for row in report['rows']}
  assert set(rows) == {
    *('python', 'jax', 'cores', 'memory', 'disk', 'sandbox', 'bubblewrap', 'unshare -n'),
    *('vllm', 'ray', 'slurm', 'kubernetes', 'tensorboard', 'chromium', 'openai', 'lm-eval'),
  }
  assert all(
    bool(row['action']) != row['found'] for row in rows.values()
  )  # what is missing says what to do, and only that
  assert str(tmp_path) in rows['disk']['detail']
  assert rows['cores']['detail'].startswith(f'{len(os.sched_getaffinity(0))} of ')
  assert rows['python']['found'] and rows['jax']['found'] and '(cpu)' in rows['jax']['detail']
  blocked = any(row['required'] and not row['found'] for row in rows.values())
  assert report['demo_can_run'] is not blocked
  assert done.returncode == int(blocked)


def test_doctor_fails_where_the_run_directory_has_no_room():
  done = aevo('doctor', '--json', '--run=/proc/aevo')  # a file system of size 0
  report = json.loads(done.stdout)
  assert (done.returncode, report['demo_can_run']) == (1, False)
  assert [row['name'] for row in report['rows'] if row['required'] and not row['found']] == ['disk']


@pytest.mark.parametrize(
  ('place', 'said'),
  [
    ('file', 'it is a file, and a directory is needed'),
    ('file/run', 'is a file, so nothing can lie below it'),
    ('link', 'it is a symbolic link that leads nowhere'),
    ('n' * 256, 'the name has more than 255 bytes'),
  ],
)
def test_doctor_names_a_run_directory_that_cannot_be_made(tmp_path, place, said):
  (tmp_path / 'file').write_text('work')
  (tmp_path / 'link').symlink_to('nowhere')
  row = cli.load(cli.commands()['doctor']).disk_row(str(tmp_path / place))
  assert not row.found and row.required and said in row.detail


def test_doctor_table_names_a_command_for_what_is_missing(tmp_path):
  done = aevo('doctor', f'--run={tmp_path}')
  assert 'The demo can' in done.stdout
  assert 'Unable to initialize backend' not in done.stderr
