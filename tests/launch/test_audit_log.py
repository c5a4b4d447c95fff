"""aevo audit_log as a person types it."""

import json

import pytest
from aevo_command import REPOSITORY, aevo

LOG = REPOSITORY / 'docs' / 'results.tsv'


def test_a_log_is_judged_and_the_last_line_says_it_in_words():
  result = aevo('audit_log', LOG, '--seed_sd=0.0012')
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[0] == '38 runs with a score, 14 of them kept; val_bpb, less is better'
  assert sum('exceeds noise' in line for line in lines) == 2
  assert lines[-1].startswith('2 of 13 kept gains exceed the noise between seeds')
  as_json = json.loads(aevo('audit_log', LOG, '--noise_from=discards', '--json').stdout)
  assert as_json['noise']['freedom'] > 3 and len(as_json['kept']) == 13


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((LOG,), 'give --seed_sd=STANDARD_DEVIATION, or say --noise_from=discards'),
    ((LOG, '--seed_sd=0'), '--seed_sd must be above 0, got 0'),
    ((LOG, '--seed_sd=1', '--noise_from=discards'), 'leave out one'),
    ((LOG, '--seed_sd=1', '--alpha=1'), '--alpha must lie in (0, 1), got 1'),
    ((LOG, '--seed_sd=1', '--score_column=val_pbp'), "did you mean 'val_bpb'?"),
    ((LOG, '--gin.reversal.alpha=0.1'), 'nothing of a log depends on gin'),
  ],
)
def test_what_cannot_be_served_is_a_sentence(arguments, said):
  result = aevo('audit_log', *arguments)
  assert result.returncode == 1 and said in result.stderr and 'Traceback' not in result.stderr
