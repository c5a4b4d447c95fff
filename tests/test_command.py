"""The shell around a command: statuses, help, refused gin, budgets capped by the environment."""

import pytest
from absl import app, flags, logging

from aevo_jax import command, layout
from aevo_jax.campaign.setup import settings as _settings  # noqa: F401  registers what campaigns may bind
from aevo_jax.config.configurables import resolve


@pytest.fixture
def campaign():
  """A command that loads the constitution and returns its number of rounds as exit status."""
  made = command.Command('campaign', 'Doc.')
  flags.DEFINE_integer('left', 0, 'Of an earlier call.', flag_values=made.flags)

  @made
  def main(arguments):
    del arguments
    made.load_gin(layout.root_file('constitution.gin'))
    return resolve('budget').rounds + 100 * made.flags.left

  return main


@pytest.mark.parametrize(
  ('caps', 'rounds'),
  [('', 4), ('budget.rounds=1', 1), ('budget.rounds=9', 4), ('elsewhere.rounds=1', 4)],
)
def test_caps_lower_budgets_and_never_raise_them(campaign, monkeypatch, capsys, caps, rounds):
  monkeypatch.setenv(command.CAPS, caps)
  assert campaign(['--gin.budget.rounds=4']) == rounds
  assert ('AEVO_CAPS lowers budget.rounds = 1' in capsys.readouterr().err) is (rounds == 1)


@pytest.mark.parametrize(
  ('flag', 'printed'),
  [((), []), (('--verbosity=1',), ['of a library']), (('--verbosity=-1',), [])],
  ids=['', 'info', 'warning'],
)
def test_what_libraries_log_at_info_is_printed_where_it_is_asked_for(
  campaign, caplog, flag, printed
):
  """Orbax tells at INFO of every file."""
  before = logging.get_verbosity()
  try:
    campaign(flag)
    logging.info('of a library')
  finally:
    logging.set_verbosity(before)
  assert caplog.messages == printed


@pytest.mark.parametrize(
  ('caps', 'message'),
  [('budget.rounds', 'SECTION.FIELD=NUMBER'), ('budget.round=1', "no field 'round'")],
)
def test_a_cap_that_cannot_be_read_is_said(caps, message):
  with pytest.raises(app.UsageError, match=message):
    command.lowered_by_caps(caps)


def test_flags_of_an_earlier_call_are_forgotten(campaign):
  assert campaign(['--left=1', '--gin.budget.rounds=4']) == 104
  assert campaign(['--gin.budget.rounds=4']) == 4


@pytest.mark.parametrize(('no_gin', 'listed'), [('', True), ('nothing here reads gin', False)])
def test_help_lists_the_gin_flags_where_they_are_read(no_gin, listed):
  made = command.Command('report', 'Doc.', no_gin=no_gin)
  flags.DEFINE_string('out', None, 'Directory.', flag_values=made.flags)
  said = made.help()
  assert '--out' in said and (made.flags.get_help() in said) is listed
  assert ('--gin_file' in said) is ('--gin_bindings' in said) is listed
  assert ('takes no gin flags' in said) is not listed


@pytest.mark.parametrize(
  ('argv', 'status', 'words'),
  [
    (['--nope'], 1, 'aevo report: no flag --nope\nSee: aevo report --help\n'),
    (['--gin.budget.rounds=1'], 1, 'nothing here reads gin; leave out --gin_file'),
    (['stop'], 5, ''),
    (['message'], 1, 'the reason'),
    (['--help'], 0, ''),
  ],
)
def test_every_end_is_a_status(capsys, argv, status, words):
  made = command.Command('report', 'Doc.', takes=('HOW',), no_gin='nothing here reads gin')

  @made
  def main(arguments):
    raise SystemExit({'stop': 5, 'message': 'the reason'}[arguments[0]])

  assert main(argv) == status and words in capsys.readouterr().err


@pytest.mark.parametrize(
  ('error', 'detail'),
  [
    (MemoryError(), 'MemoryError'),
    (RuntimeError("can't start new thread"), "can't start new thread"),
    (RuntimeError('RESOURCE_EXHAUSTED: 9 bytes.\nmore'), 'RESOURCE_EXHAUSTED: 9 bytes.'),
    (ImportError('libx.so: failed to map segment from shared object'), 'libx.so: failed to map'),
  ],
)
def test_want_of_memory_is_a_sentence_in_every_command(capsys, error, detail):
  made = command.Command('report', 'Doc.')

  @made
  def main(arguments):
    raise error

  assert main([]) == 1
  said = capsys.readouterr().err
  assert said.startswith(
    'report: the memory is used up; free some or raise its limit (ulimit -v), then run the same '
    f'command again ({detail}'
  )
  assert said.count('\n') == 1


def test_another_error_is_shown_as_it_is():
  made = command.Command('report', 'Doc.')

  @made
  def main(arguments):
    raise RuntimeError('a mistake of ours')

  with pytest.raises(RuntimeError, match='a mistake of ours'):
    main([])
