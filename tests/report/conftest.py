"""Campaigns that never ran: a ledger and score files with known numbers, for what reports say about
them.

`make_run(...)` writes them through the ledger's own writer. Item outcomes come from an `outcomes`
table, so that tests can state what the report must say without computing it the way the report
does.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import pytest

from aevo_jax import layout
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.sets import commitment
from aevo_jax.ledger.append import Ledger
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, Policy

SECRET = b's' * 32
KINDS = (
  ('bit_manipulation', 'affine'),
  ('bit_manipulation', 'nonlinear'),
  ('numeral_conversion', 'additive'),
  ('numeral_conversion', 'subtractive'),
)
RECIPE = "optimizer.learning_rate = 0.002\noptimizer.schedule = 'cosine'\n"
# Round -> worker -> what happened to it, and its released score.
OUTCOMES = {0: {}, 1: {2: 'refused', 3: 'failed'}, 2: {3: 'retried'}}
RELEASED = {0: {0: 0.5, 1: 0.5}, 1: {0: 0.5, 1: 0.61}, 2: {0: 0.6, 1: 0.55}}
VERDICT = {
  'test': 'slope',
  'statistic': -2.0,
  'p_value': 0.001,
  'e_value': None,
  'threshold': 0.01,
  'n': 8,
  'effect': 'slope_drop',
  'minimum_detectable_effect': 0.4,
  'why': 'it fell',
}
ORDER = ('started', 'round 0', 'round 1', 'round 2', 'final scored', 'revealed', 'finished')


@dataclasses.dataclass(frozen=True)
class Script:
  """What happened. `accuracy`: trial, base, starting<k> or promoted<k> -> fraction of the items
  right, the first ones of each kind, or kind -> that fraction.

  until: the last of ORDER that is written. promote: r1w1's change becomes the standing recipe of
  round 2. text: put wherever a run holds free text. outcomes: as OUTCOMES. rounds: that are run, of
  2. unscored: retrainings without a score. verdicts: round -> stream -> verdict.
  """

  accuracy: dict
  until: str = 'finished'
  promote: bool = True
  text: str = 'plain text'
  items: int = 80
  kinds: tuple = KINDS
  challenge_extra: int = 4
  pause: float = 0.0
  seed_sd: float = 0.01
  outcomes: dict = dataclasses.field(default_factory=lambda: OUTCOMES)
  rounds: int = 2
  final_seeds: int = 2
  unscored: tuple = ()
  verdicts: dict = dataclasses.field(default_factory=dict)


def rows(accuracy: float | dict, script: Script, dev: bool = False):
  """Item results: of every kind the first `accuracy` are right; `challenge_extra` further items of
  the set pass the challenge's comparison alone.
  """
  kinds = [k for k in script.kinds if not (dev and k == ('bit_manipulation', 'nonlinear'))]
  each = script.items // len(script.kinds)
  results, extra = [], script.challenge_extra
  for family, kind in kinds:
    share = accuracy.get(kind, 0.5) if isinstance(accuracy, dict) else accuracy
    right = round(share * each)
    for i in range(each):
      strict = i < right
      lenient = not strict and extra > 0
      extra -= lenient
      results.append(scoring.ItemResult(family, kind, '1', strict, strict or lenient))
  return results


class Writer:
  """Appends records with a clock of its own, one second a record."""

  def __init__(self, run: pathlib.Path, script: Script):
    self.run, self.script, self.now = run, script, 1.8e9
    (run / 'scores').mkdir(parents=True)
    (run / 'evidence').mkdir()
    loading.load(
      [str(layout.root_file('constitution.gin'))],
      [
        'budget.rounds = 2',
        'budget.workers = 4',
        'budget.noise_seeds = 2',
        f'budget.final_seeds = {script.final_seeds}',
        f'dev_set.items = {script.items}',
        f'external_set.items = {script.items}',
        f'final_set.items = {script.items}',
        'release.per_round = 2',
      ],
      search_paths=layout.search_paths(),
    )
    self.constitution = constitution_lib.from_gin().committed(commitment(SECRET))
    (run / 'constitution.gin').write_text(self.constitution.text())
    self.ledger = Ledger.open(run / 'ledger.jsonl', clock=self.clock)

  def clock(self) -> float:
    self.now += 1
    return self.now

  def summary(self, name: str, split: str) -> dict:
    results = rows(self.script.accuracy.get(name, 0.5), self.script, dev=split == 'dev')
    summary = scoring.summary(results, 'strict')
    text = json.dumps(
      {'summary': summary, 'file_digest': 'f' * 64, 'items': scoring.to_rows(results)}
    )
    (self.run / 'scores' / f'{name}.{split}.json').write_text(text)
    return summary

  def trial(
    self, name: str, round_: int, worker: int, axis: str, overlay: str, outcome: str = 'sealed'
  ) -> None:
    add, text = self.ledger.append, self.script.text
    add(
      'trial_assigned',
      {
        'trial': name,
        'round': round_,
        'worker': worker,
        'axis': axis,
        'overlay': overlay,
        'recipe': 'e' * 64,
        'seed': 7,
      },
    )
    if outcome == 'refused':
      add('trial_refused', {'trial': name, 'cause': f'dead binding: {text}'})
      return
    add('trial_started', {'trial': name, 'attempt': 1})
    if outcome == 'failed':
      self.now += 9
      add(
        'trial_failed',
        {'trial': name, 'cause': 'non_finite', 'final': True, 'message': f'loss is nan; {text}'},
      )
      return
    if outcome == 'retried':
      add(
        'trial_failed',
        {'trial': name, 'cause': 'crash', 'final': False, 'message': f'end of log: {text}'},
      )
      add('trial_started', {'trial': name, 'attempt': 2})
    self.now += 19
    add(
      'trial_sealed',
      {
        'trial': name,
        'digest': 'd' * 64,
        'candidate': 'c' * 64,
        'export_file': 'f' * 64,
        'claim': {
          'status': 'trained',
          'steps': 60,
          'tokens': 122880,
          'flops': 10**12,
          'seconds': {'start': 3.0, 'train': 15.0, 'export': 0.5},
        },
      },
    )
    if round_ >= 0:
      add('trial_scored', {'trial': name, 'score': self.summary(name, 'dev')})
      add('external_scored', {'trial': name})
    else:
      add('final_candidate_scored', {'trial': name})

  def policy(self, policy: Policy) -> None:
    self.ledger.append(
      'policy_written',
      {'round': policy.round, 'digest': policy.digest(), 'policy': policy.to_json()},
    )

  def round(self, policy: Policy, outcomes: dict, released: dict, following: Policy) -> None:
    add = self.ledger.append
    if policy.round == 0:
      self.policy(policy)
    for worker, assignment in enumerate(policy.assignments):
      self.trial(
        f'r{policy.round}w{worker}',
        policy.round,
        worker,
        assignment.axis,
        policy.overlay(worker),
        outcomes.get(worker, 'sealed'),
      )
    if policy.round == 0:
      add('base_scored', {'score': self.summary('base', 'dev')})
    for worker, score in released.items():
      add(
        'external_released',
        {'trial': f'r{policy.round}w{worker}', 'round': policy.round, 'score': score},
      )
    evidence = {
      'schema': 1,
      'round': policy.round,
      'standing': policy.standing,
      'trials': [],
      'noise': {
        'seed_sd': self.script.seed_sd,
        'degrees_of_freedom': 1 + policy.round,
        'replicates': 2 + policy.round,
      },
    }
    (self.run / 'evidence' / f'round_{policy.round:03d}.json').write_text(json.dumps(evidence))
    add('evidence_written', {'round': policy.round, 'digest': '0' * 64})
    spoken = self.script.verdicts.get(policy.round)
    if spoken:
      verdicts = {stream: VERDICT | {'verdict': verdict} for stream, verdict in spoken.items()}
      add('verdicts_spoken', {'round': policy.round, 'verdicts': verdicts})
    self.policy(following)
    add(
      'promotion_decided',
      {
        'round': policy.round,
        'promoted': following.standing,
        'before': policy.standing,
        'reasons': list(following.reasons),
      },
    )
    add('round_finished', {'round': policy.round})


def written(run: pathlib.Path, script: Script, memory_root: pathlib.Path | None) -> pathlib.Path:
  """Writes the run as far as `script.until`: in memory first, since nothing here has to survive a
  power cut.
  """
  with tempfile.TemporaryDirectory(dir=memory_root) as folder:
    synced = pathlib.Path(folder) / 'run'
    _write(synced, script)
    shutil.copytree(synced, run)
  return run


def _write(run: pathlib.Path, script: Script) -> None:
  writer = Writer(run, script)
  add, steps = writer.ledger.append, ORDER[: ORDER.index(script.until) + 1]
  policies = _policies(script)
  add(
    'campaign_started',
    {
      'constitution': writer.constitution.digest(),
      'commitment': commitment(SECRET),
      'holdout': 'h-0',
      'substrate': 'a' * 64,
      'substrate_object': 'b' * 64,
      'base_digest': '9' * 64,
      'seed': 0,
      'settings': dataclasses.asdict(CampaignSettings()),
      'locked': True,
      'slots': 2,
      'recipe': RECIPE,
      'version': '0.1.0',
      'machine': 'x86_64, Linux',
    },
  )
  for round_ in range(script.rounds + 1):
    if f'round {round_}' in steps:
      outcomes = script.outcomes.get(round_, {})
      writer.round(policies[round_], outcomes, RELEASED[round_], policies[round_ + 1])
      if round_ == 0 and script.pause:
        writer.now += script.pause
        add('controller_resumed', {})
  if script.rounds < 2:
    add('budget_exhausted', {'round': script.rounds, 'reason': '90 s of 100 are spent'})
  if 'final scored' in steps:
    _write_final(writer, policies[script.rounds + 1].standing, revealed='revealed' in steps)
  if 'revealed' in steps:
    for round_ in range(script.rounds + 1):
      for worker in range(len(policies[round_].assignments)):
        if script.outcomes.get(round_, {}).get(worker, 'sealed') in ('sealed', 'retried'):
          writer.summary(f'r{round_}w{worker}', 'external')
    add('secrets_revealed', {'secrets': {'holdout': SECRET.hex()}})
  if 'finished' in steps:
    add('campaign_finished', {})
  writer.ledger.close()


def _policies(script: Script) -> list[Policy]:
  """Of rounds 0 to 3, the last of which is never run."""
  text = script.text
  rate = {'optimizer.learning_rate': 0.004}
  standing = rate if script.promote else {}
  schedule = {'optimizer.schedule': text}
  batch = {'train.batch_rows': 4}
  dead_end = DeadEnd('schedule', schedule, -0.05, 0.97, 1, 5)
  unchanged = 'the standing recipe unchanged'
  tried = (
    Assignment(ANCHOR, {}, {}, unchanged),
    Assignment('learning_rate', rate, rate, f'new setting ({text})'),
    Assignment('schedule', schedule, schedule, 'new setting'),
    Assignment('batch', batch, batch, 'new setting'),
  )
  decays = [{'train.ema_decay': decay} for decay in (0.5, 0.6, 0.7)]
  averaged = [Assignment('averaging', d, standing | d, 'new setting') for d in decays]
  last = (Assignment(ANCHOR, {}, standing, unchanged), *averaged)
  reasons = (f'promoted learning_rate: gained +0.100 {text}',) if script.promote else ()
  return [
    policy_lib.starting(2),
    Policy(1, '', {}, {}, (), (), tried, ()),
    Policy(2, '', standing, {}, ('batch',), (dead_end,), last, reasons),
    Policy(3, '', standing, {}, (), (dead_end,), (), ()),
  ]


def _write_final(writer: Writer, standing: dict, *, revealed: bool) -> None:
  for recipe, worker in (('starting', 0), ('promoted', 2)):
    for k in range(writer.script.final_seeds):
      writer.trial(
        f'{recipe}{k}',
        -1,
        worker + k,
        recipe,
        policy_lib.render_overlay(standing) if recipe == 'promoted' else '',
      )
  seeds = range(writer.script.final_seeds)
  names = ['base', *[f'{recipe}{k}' for recipe in ('starting', 'promoted') for k in seeds]]
  scores = {}
  for name in names:
    if name not in writer.script.unscored:
      scores[name] = writer.summary(name, 'final')
  if not revealed:
    for path in (writer.run / 'scores').glob('*.final.json'):
      path.unlink()  # item results are the arbiter's until the reveal
  writer.ledger.append('final_scored', {'scores': scores})


ACCURACY = {
  'base': 0.1,
  'starting0': 0.5,
  'starting1': 0.5,
  'promoted0': 0.7,
  'promoted1': 0.7,
  'r0w0': 0.5,
  'r0w1': 0.55,
  'r1w0': 0.5,
  'r1w1': 0.65,
  'r2w0': 0.65,
}


@pytest.fixture(scope='session')
def write_run(memory_root):
  """write_run(directory, **fields of Script) -> directory of a written run."""

  def write(run, **fields):
    return written(run, Script(**{'accuracy': ACCURACY} | fields), memory_root)

  return write


@pytest.fixture
def make_run(write_run, tmp_path):
  """make_run(name='run', **fields of Script) -> directory of a written run."""
  return lambda name='run', **fields: write_run(tmp_path / name, **fields)
