"""A campaign without an external target, to its end: nothing external is scored, proxies choose,
and the audit computes all of it again.
"""

import json

import pytest

from aevo_jax.campaign.decisions import proxy_target
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent.drift.proxies import Judgement
from aevo_jax.meta_agent.evidence import Evidence, Noise, Panel, TrialEvidence
from aevo_jax.report.audit import checks
from aevo_jax.report.final_table import final_table
from aevo_jax.report.page.html import render
from aevo_jax.report.run_view import RunView

NO_EXTERNAL = (
  "objective.target = 'proxies'",
  "dev_set.family_weight = {'numeral_conversion': 0.0}",
  'budget.rounds = 2',
  'reversal.calibration_rounds = 1',
  'probes.rules = 60',
  'probes.families = 30',
  'probes.order = 60',
  'probes.samples = 20',
  'probes.draws = 3',
  'probes.k = 2',
)


@pytest.fixture(scope='module')
def run(start_tiny_campaign, run_campaign):
  files = start_tiny_campaign('no_external', *NO_EXTERNAL)
  run_campaign(files)
  return files.run


def evidence(run, round_):
  return json.loads((run / 'evidence' / f'round_{round_:03d}.json').read_text())


def test_nothing_external_is_scored_ranked_or_released(run):
  records = read(run / 'ledger.jsonl')
  assert fold(records).finished is not None
  assert not {'external_scored', 'external_ranked', 'external_released'} & {r.kind for r in records}
  assert not list((run / 'scores').glob('*.external.json'))


def test_every_trial_has_a_consensus_by_hand(run):
  """With full trust the score is the plain mean of dev and the probes' accuracies."""
  state = fold(read(run / 'ledger.jsonl'))
  for round_ in (0, 1):  # calibration: nobody has lost trust
    found = evidence(run, round_)
    assert found['target'] == 'proxies' and len(found['trials']) == 2
    for row in found['trials']:
      trial = state.trials[row['trial']]
      accuracies = [
        trial.dev['overall']['accuracy'],
        *(
          trial.probes[p]['overall']['accuracy'] for p in ('rules', 'families', 'order', 'samples')
        ),
      ]
      assert row['external'] == pytest.approx(sum(accuracies) / 5, abs=2e-6)
      assert row['cost']['probe_completions'] == 60 + 30 + 60 + 20 * 3
    assert sorted(row['external_rank'] for row in found['trials']) == [0, 1]


def test_the_judge_speaks_and_says_how_weak_it_is(run):
  said = evidence(run, 2)['proxies']
  assert said['evidence'] == 'proxies only, weaker'
  assert (
    set(said['verdicts']['overall']) == {'dev', 'rules', 'families', 'order', 'samples'}
    and 'cross' not in said['verdicts']['unit_conversion']
  )
  assert all(0 <= t <= 1 for parts in said['trust'].values() for t in parts.values())
  assert evidence(run, 0)['proxies']['verdicts'] == {}


def test_the_noise_floor_is_of_the_consensus(run):
  found = evidence(run, 0)
  a, b = (row['external'] for row in found['trials'])
  assert (
    found['noise']['seed_sd'] == pytest.approx(max(abs(a - b) / 2**0.5, 0.005), abs=2e-6)
    and found['noise']['degrees_of_freedom'] == 1
  )


def test_it_audits(run):
  found = {f.check: f for f in checks.audit(run)}
  assert {f.status for f in found.values()} <= {checks.OK, checks.WARNING}, found
  assert (
    'rules, families, order, samples of 7 candidates' in found['probes'].detail
    and 'no external target' in found['external scores'].detail
  )


def test_report_and_table_say_what_the_final_is(run):
  view = RunView(run)
  assert 'held-out items of the same generators' in final_table(view)
  page = render(view)
  assert (
    'held-out items of the same generators, not an external target' in page
    and 'External, the target' not in page
  )


@pytest.mark.parametrize(
  ('change', 'failing'),
  [
    (
      lambda stored: [answer.__setitem__(0, 'x' * 9) for answer in stored['answers']['order']],
      {'probes'},
    ),
    (lambda stored: stored['summary']['order']['overall'].__setitem__('accuracy', 1.0), {'probes'}),
    (lambda stored: stored['answers']['samples'][3].pop(), {'probes'}),
  ],
  ids=['answers', 'summary', 'missing sample'],
)
def test_a_changed_probe_file_fails_the_audit(run, change, failing, tmp_path, rewrite):
  import os
  import shutil

  copy = tmp_path / 'run'
  shutil.copytree(run, copy, copy_function=os.link)
  path = copy / 'scores' / 'r1w1.probes.json'
  stored = json.loads(path.read_text())
  change(stored)
  rewrite(path, json.dumps(stored))
  assert {f.check for f in checks.audit(copy) if f.status == checks.FAILED} == failing


def test_agents_read_old_rounds_under_the_latest_trust():
  trial = {
    'dev': {'overall': [0.9, 0.0]},
    'rules': {'overall': [0.5, 0.0]},
    'order': {'overall': [0.7, 0.0]},
  }
  panel = Panel(Judgement(trust={'dev': {'overall': 0.0}}), {})
  noise = Noise(0.005, 1, 2)
  scored = TrialEvidence(external=0.7, proxies=trial)
  first = Evidence(0, {}, (scored, TrialEvidence()), noise)
  again = proxy_target.rescored([first, Evidence(1, {}, (), noise, proxies=panel)])
  assert [row.external for row in again[0].trials] == [0.6, None]
  assert first.trials[0].external == 0.7
  unchanged = [first]
  assert proxy_target.rescored(unchanged) is unchanged
