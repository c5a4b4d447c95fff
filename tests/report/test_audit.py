"""A finished run passes its audit; after any one change to it, exactly the checks that the change
concerns fail.

Changes to files leave the ledger alone. Changes to the ledger come in two kinds: crude ones break
its chain; careful ones forge a new chain and head, which the ledger itself cannot notice, so that
the recomputation has to.
"""

import dataclasses
import json
import pathlib

import pytest

from aevo_jax.config.statements import parse_statements
from aevo_jax.config.untrusted import parse_untrusted
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import GENESIS_HASH, Record, canonical_json, make_record
from aevo_jax.report.audit import checks
from aevo_jax.substrate import build


def findings(
  run: pathlib.Path, names=checks.CHECKS, parse=parse_statements, **seams
) -> dict[str, checks.Finding]:
  """Findings by check; overlays are parsed in this process, since a process for each is slow."""
  return {f.check: f for f in checks.audit(run, names, parse=parse, **seams)}


def failed(run: pathlib.Path) -> set[str]:
  return {name for name, finding in findings(run).items() if finding.status == checks.FAILED}


def forge(run: pathlib.Path, rewrite, change) -> None:
  """Rewrites the ledger with change(records) as a valid chain with a valid head."""
  chained: list[Record] = []
  for record in change(read(run / 'ledger.jsonl')):
    previous = chained[-1].hash if chained else GENESIS_HASH
    chained.append(make_record(len(chained), record.kind, record.time, record.payload, previous))
  rewrite(run / 'ledger.jsonl', b''.join(r.line() for r in chained))
  rewrite(
    run / 'ledger.head', canonical_json({'seq': chained[-1].seq, 'hash': chained[-1].hash}) + b'\n'
  )


def with_payload(kind: str, change, trial: str = ''):
  """A change for `forge`: one field or more of the first record of that kind (and trial)."""

  def apply(records):
    index = next(
      i
      for i, r in enumerate(records)
      if r.kind == kind and r.payload.get('trial', '') == (trial or r.payload.get('trial', ''))
    )
    payload = json.loads(json.dumps(records[index].payload))
    change(payload)
    return [
      *records[:index],
      dataclasses.replace(records[index], payload=payload),
      *records[index + 1 :],
    ]

  return apply


def test_an_untouched_run_passes(tiny_run):
  found = findings(tiny_run, parse=parse_untrusted)
  assert tuple(found) == checks.CHECKS
  assert {f.status for f in found.values()} <= {checks.OK, checks.WARNING}
  assert {name for name, f in found.items() if f.status == checks.WARNING} <= {
    'confinement'
  }  # only where the kernel lacks the sandbox


def test_a_forged_chain_without_a_change_passes(run_copy, rewrite):
  forge(run_copy, rewrite, lambda records: records)
  assert failed(run_copy) == set()


# -- files -----------------------------------------------------------------------------------------


def json_change(change):
  def apply(data: bytes) -> bytes:
    value = json.loads(data)
    change(value)
    return json.dumps(value).encode()

  return apply


def flip_last_byte(data: bytes) -> bytes:
  return data[:-1] + bytes([data[-1] ^ 1])


def mark_otherwise(score: dict) -> None:
  score['items'][7][3] = not score['items'][7][3]


def answer_otherwise(score: dict) -> None:
  score['items'][7][2] = 'no such answer' if score['items'][7][3] else None
  score['items'][7][3] = True


FILES = {
  'constitution.gin': (
    lambda b: b.replace(b'promotion.min_gain = 0.01', b'promotion.min_gain = 0.02'),
    {'constitution'},
  ),
  'settings.json': (json_change(lambda v: v.update(seed=7)), {'inputs'}),
  'inputs.json': (json_change(lambda v: v.update(recipe=v['recipe'] + '\n')), {'inputs'}),
  'substrate.json': (
    lambda b: b.replace(b'"aevo_jax/layout.py": "', b'"aevo_jax/layout.py": "0'),
    {'substrate'},
  ),
  'base.safetensors': (flip_last_byte, {'substrate'}),
  'trials/r1w1/export/model.safetensors': (flip_last_byte, {'sealed trials'}),
  'trials/r1w1/recipe.gin': (lambda b: b + b'# harmless?\n', {'sealed trials'}),
  'trials/r1w1/metrics.jsonl': (lambda b: b.replace(b'"step": 0', b'"step": 9'), {'sealed trials'}),
  'trials/r0w0/added.txt': (lambda b: b'new', {'sealed trials'}),
  'policy/round_001/w1.gin': (lambda b: b + b'optimizer.b1 = 0.5\n', {'policies'}),
  'policy/round_002/policy.json': (
    json_change(lambda v: v.update(reasons=['because'])),
    {'policies'},
  ),
  'evidence/round_001.json': (json_change(lambda v: v['noise'].update(seed_sd=0.5)), {'evidence'}),
  'scores/r1w1.dev.json': (json_change(mark_otherwise), {'dev scores'}),
  'scores/base.dev.json': (json_change(answer_otherwise), {'dev scores'}),
  'scores/r0w1.dev.json': (json_change(lambda v: v.update(file_digest='0' * 64)), {'dev scores'}),
  # The verdicts rest on dev's answers as well.
  'scores/r0w0.dev.json': (
    json_change(lambda v: v['items'].pop()),
    {'dev scores', 'concordance'},
  ),
  'scores/r1w0.external.json': (json_change(mark_otherwise), {'external scores'}),
  'scores/r1w1.external.json': (
    json_change(lambda v: v['summary']['overall'].update(accuracy=0.9)),
    {'external scores'},
  ),
  'scores/promoted0.final.json': (json_change(mark_otherwise), {'final scores'}),
}


@pytest.mark.parametrize('name', FILES)
def test_a_changed_file_fails_its_own_check(run_copy, rewrite, name):
  change, expected = FILES[name]
  path = run_copy / name
  before = path.read_bytes() if path.exists() else b''
  after = change(before)
  assert after != before
  rewrite(path, after)
  assert failed(run_copy) == expected


def test_a_changed_recipe_is_named(run_copy, rewrite):
  rewrite(run_copy / 'trials' / 'r1w1' / 'recipe.gin', 'optimizer.learning_rate = 1.0\n')
  assert (
    'trials/r1w1 is not what was sealed: recipe.gin changed'
    in findings(run_copy, ['sealed trials'])['sealed trials'].detail
  )


@pytest.mark.parametrize(
  'name',
  [
    'scores/r1w1.dev.json',
    'scores/starting0.final.json',
    'evidence/round_000.json',
    'policy/round_001/standing.gin',
    'ledger.head',
  ],
)
def test_a_missing_file_is_a_failure(run_copy, name):
  (run_copy / name).unlink()
  part = {
    'scores/r1w1.dev.json': 'dev scores',  # and what the verdicts make of it
    'scores/starting0.final.json': 'final scores',
    'evidence/round_000.json': 'evidence',
    'policy/round_001/standing.gin': 'policies',
    'ledger.head': 'ledger',
  }[name]
  assert failed(run_copy) - {'concordance'} == {part}


# -- the ledger ------------------------------------------------------------------------------------


def edited(data: bytes) -> bytes:
  return data.replace(b'"trial":"r1w1"', b'"trial":"r1w0"', 1)


@pytest.mark.parametrize(
  'change',
  [edited, lambda data: data[: data.rindex(b'\n', 0, -1) + 1], lambda data: data[:-9]],
  ids=['edited', 'last line cut', 'torn'],
)
def test_a_broken_chain_stops_the_audit(run_copy, rewrite, change):
  data = (run_copy / 'ledger.jsonl').read_bytes()
  assert change(data) != data
  rewrite(run_copy / 'ledger.jsonl', change(data))
  found = findings(run_copy)
  assert found['ledger'].status == checks.FAILED
  assert {f.status for name, f in found.items() if name != 'ledger'} == {checks.SKIPPED}


def turn_around(payload: dict) -> None:
  row = payload['streams']['overall']
  row['discordant'] = row['n'] * (row['n'] - 1) // 2 - row['discordant']


def more_correct(payload: dict) -> None:
  payload['score']['overall']['accuracy'] += 0.25


# A score that went into a round's evidence is missed there too.
FORGED = {
  'secret': (
    with_payload('secrets_revealed', lambda p: p['secrets'].update(holdout='00' * 32)),
    {'commitment'},
  ),
  'released score': (
    with_payload('external_released', lambda p: p.update(score=0.99), 'r1w1'),
    {'releases', 'evidence'},
  ),
  'statistics': (
    with_payload('concordance_measured', turn_around),
    {'concordance', 'verdicts'},
  ),
  'dev score': (
    with_payload('trial_scored', more_correct, 'r1w1'),
    {'dev scores', 'evidence'},
  ),
  'base score': (with_payload('base_scored', more_correct), {'dev scores'}),
  'final score': (
    with_payload(
      'final_scored', lambda p: p['scores']['promoted0']['overall'].update(accuracy=0.99)
    ),
    {'final scores'},
  ),
  'promotion': (
    with_payload(
      'promotion_decided', lambda p: p.update(promoted={'optimizer.learning_rate': 0.01})
    ),
    {'promotions'},
  ),
  'evidence digest': (
    with_payload('evidence_written', lambda p: p.update(digest='0' * 64)),
    {'evidence', 'policies'},
  ),
  'recipe digest': (
    with_payload('trial_assigned', lambda p: p.update(recipe='0' * 64), 'r0w1'),
    {'recipes'},
  ),
  'seed': (with_payload('trial_assigned', lambda p: p.update(seed=1), 'r1w0'), {'recipes'}),
  'candidate': (
    with_payload('trial_sealed', lambda p: p.update(candidate='0' * 64), 'r1w0'),
    {'sealed trials'},
  ),
  'base digest': (
    with_payload('campaign_started', lambda p: p.update(base_digest='0' * 64)),
    {'inputs', 'substrate', 'recipes'},
  ),
  'a score given twice': (
    lambda records: [
      *records[:-1],
      next(r for r in records if r.kind == 'trial_scored'),
      records[-1],
    ],
    {'history'},
  ),
}


@pytest.mark.parametrize('name', FORGED)
def test_a_forged_ledger_fails_what_it_lies_about(run_copy, rewrite, name):
  change, expected = FORGED[name]
  forge(run_copy, rewrite, change)
  assert failed(run_copy) == expected


def test_another_campaign_seed_is_not_the_runs(run_copy, rewrite):
  forge(run_copy, rewrite, with_payload('campaign_started', lambda p: p.update(seed=5)))
  # Ties are tossed with it too, so that ranks change or do not.
  assert failed(run_copy) - {'ranks', 'concordance'} == {'inputs', 'recipes', 'policies'}


def test_a_forged_secret_leaves_the_private_scores_unsaid(run_copy, rewrite):
  forge(run_copy, rewrite, FORGED['secret'][0])
  private = ('external scores', 'ranks', 'final scores')
  found = findings(run_copy, private)
  assert {found[name].status for name in private} == {checks.SKIPPED}


def test_more_releases_than_the_quota_fail(run_copy, rewrite):
  def one_more(records):
    last = max(i for i, r in enumerate(records) if r.kind == 'external_released')
    extra = dataclasses.replace(
      records[last], payload=records[last].payload | {'round': 1, 'trial': 'r0w0'}
    )
    return [*records[: last + 1], extra, *records[last + 1 :]]

  forge(run_copy, rewrite, one_more)
  finding = findings(run_copy, ['releases'])['releases']
  assert 'round 1 released 3 scores, 2 are allowed' in finding.detail


def test_an_unfinished_run_has_nothing_to_hide(run_copy, rewrite):
  """Cut, with a matching head, after round 0: what is there holds, the rest has not come yet."""
  forge(
    run_copy,
    rewrite,
    lambda records: records[
      : 1 + next(i for i, r in enumerate(records) if r.kind == 'round_finished')
    ],
  )
  found = findings(run_copy)
  assert {name for name, f in found.items() if f.status == checks.NOT_YET} == {
    'commitment',
    'external scores',
    'ranks',
    'concordance',
    'final scores',
  }
  assert not {name for name, f in found.items() if f.status == checks.FAILED}


def test_other_code_than_the_runs_is_a_warning(tiny_run):
  def changed(root, package_root):
    real = build.measure(root, package_root)
    files = real.code_tree.files | {'aevo_jax/new.py': '0' * 64}
    return dataclasses.replace(
      real, code_tree=dataclasses.replace(real.code_tree, digest='0' * 64, files=files)
    )

  finding = findings(tiny_run, ['code'], measure=changed)['code']
  assert (
    finding.status == checks.WARNING
    and "code differs from the run's" in finding.detail
    and 'aevo_jax/new.py' in finding.detail
  )


def test_a_check_runs_alone_with_what_it_needs(run_copy, rewrite):
  """Nothing is said of the gates, and a gate that fails is the reason that the check gives."""
  names = ['final scores', 'evidence']
  found = findings(run_copy, names)
  assert list(found) == ['evidence', 'final scores']
  assert {finding.status for finding in found.values()} == {checks.OK}
  rewrite(run_copy / 'constitution.gin', '# another\n')
  for finding in findings(run_copy, names).values():
    assert finding.status == checks.SKIPPED and 'while the constitution check' in finding.detail
  with pytest.raises(ValueError, match=r'received no such check'):
    list(checks.audit(run_copy, ['no such check']))
