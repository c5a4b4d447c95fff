"""aevo simulate as a person types it."""

import json

import pytest
from aevo_command import aevo


def simulate(*arguments):
  return aevo('simulate', *arguments)


def test_json_repeats_and_does_not_depend_on_the_number_of_processes():
  options = [
    '--campaigns=3',
    '--agents=none,random',
    '--plant=shortcut',
    '--json',
    '--gin.budget.rounds=3',
  ]
  found = [
    json.loads(result.stdout)
    for result in (simulate(*options), simulate(*options, '--processes=2'))
  ]
  assert found[0].keys() == {'none', 'random'} and [
    len(found[0][a]['outcomes']) for a in found[0]
  ] == [3, 3]
  assert (
    found[0]['random']['outcomes'] == found[1]['random']['outcomes']
    and found[0]['none']['outcomes'] == found[1]['none']['outcomes']
  )
  assert all(
    o['plant'][1] == 3 and o['best'] >= o['gain'] for o in found[0]['random']['outcomes']
  )  # after two rounds of calibration


def test_tasks_of_ones_own_and_a_table():
  result = simulate(
    '--gin_file=configs/campaigns/own_data.gin', '--campaigns=2', '--agents=best_of_n'
  )
  assert result.returncode == 0, result.stderr
  assert (
    '2 campaigns of 2 rounds x 4 workers' in result.stdout
    and 'regret' in result.stdout
    and 'false alarms' in result.stdout
  )


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--agents=statistcal'], "did you mean 'statistical'?"),
    (['--gin.dev_set.items=3'], 'dev_set.items = 3 leaves some of the 6 families out'),
  ],
)
def test_a_mistake_is_a_sentence(arguments, said):
  result = simulate('--campaigns=1', *arguments)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr
