"""A policy as files and as a digest."""

import dataclasses
import json

from aevo_jax.config.statements import parse_statements
from aevo_jax.meta_agent import policy as lib

POLICY = lib.Policy(
  2,
  'parent',
  {'train.ema_decay': 0.9},
  {'averaging': {'train.ema_decay': 0.9}},
  ('batch',),
  (lib.DeadEnd('batch', {'train.batch_rows': 4}, -0.1, 0.95, 1, 5),),
  (
    lib.Assignment(lib.ANCHOR, {}, {'train.ema_decay': 0.9}, 'anchor'),
    lib.Assignment(
      'batch', {'train.batch_rows': 8}, {'train.ema_decay': 0.9, 'train.batch_rows': 8}, 'new'
    ),
  ),
  ('because',),
)


def test_json_round_trip_keeps_the_digest():
  again = lib.from_json(json.loads(json.dumps(POLICY.to_json())))
  assert again == POLICY and again.digest() == POLICY.digest()


def test_the_digest_sees_every_field_and_no_order_of_keys():
  moved = [
    dataclasses.replace(POLICY, **{f.name: value})
    for f, value in zip(
      dataclasses.fields(POLICY),
      (3, 'x', {}, {}, (), (), (), (), {'dev': {'one': 0.0}}, {'one': 0.0}, {'one': 0.5}, 1, 2),
      strict=True,
    )
  ]
  assert len({p.digest() for p in (*moved, POLICY)}) == len(moved) + 1
  overlay = dict(reversed(POLICY.assignments[1].overlay.items()))
  assert (
    dataclasses.replace(
      POLICY,
      assignments=(
        POLICY.assignments[0],
        dataclasses.replace(POLICY.assignments[1], overlay=overlay),
      ),
    ).digest()
    == POLICY.digest()
  )


def test_files_are_gin_that_parses_to_the_overlays(tmp_path):
  POLICY.write(tmp_path / 'round_002')

  def read(name):
    text = (tmp_path / 'round_002' / name).read_text()
    return {b.selector: b.value for b in parse_statements(text)}

  assert (
    read('standing.gin') == POLICY.standing
    and read('w0.gin') == POLICY.standing
    and read('w1.gin') == POLICY.assignments[1].overlay
  )
  assert lib.from_json(json.loads((tmp_path / 'round_002' / 'policy.json').read_text())) == POLICY


def test_the_starting_policy_is_anchors_only():
  policy = lib.starting(3)
  assert (
    policy.round == 0
    and len(policy.assignments) == 3
    and {a.axis for a in policy.assignments} == {lib.ANCHOR}
    and policy.overlay(0) == ''
  )


def test_policies_of_the_finished_run_are_chained(tiny_run):
  policies = [
    lib.from_json(json.loads(p.read_text()))
    for p in sorted((tiny_run / 'policy').glob('round_*/policy.json'))
  ]
  assert [p.round for p in policies] == [0, 1, 2]
  assert [p.parent for p in policies] == ['', policies[0].digest(), policies[1].digest()]
