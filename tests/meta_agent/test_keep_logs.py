"""Keep-or-discard logs: what is read, the noise between seeds, judgements with known truth."""

import numpy as np
import pytest

from aevo_jax.meta_agent.drift.tables.table_file import TableError
from aevo_jax.meta_agent.keep_logs import keep_log, kept_gains, seed_noise, wording
from aevo_jax.meta_agent.keep_logs.keep_log import KeepLog, Said, Try


def loop(seed: int, effects, noise: float = 1.0) -> KeepLog:
  """A log of the rule "keep what scores better than what stands", from effects of its tries."""
  rng = np.random.default_rng(seed)
  rows = [Try(2, noise * rng.normal(), True, 'c0', '')]
  level = 0.0
  best = rows[0].score
  for i, effect in enumerate(effects, 3):
    score = level + effect + noise * rng.normal()
    rows.append(Try(i, score, score > best, f'c{i}', ''))
    if score > best:
      level += effect
      best = score
  return KeepLog('score', False, tuple(rows), {})


def test_in_logs_of_noise_alone_as_many_are_kept_as_expected_and_none_is_named():
  inside = 0
  named = 0
  certain = 0
  logs = 0
  for seed in range(150):
    log = loop(seed, [0.0] * 40)
    if sum(each.kept for each in log.tries) < 2:
      continue
    logs += 1
    judgement = kept_gains.judge(log, seed_noise.given(1.0), 0.05)
    low, high = judgement.by_noise.interval
    inside += low <= len(judgement.kept) <= high
    named += bool(judgement.exceeding)
    certain += judgement.certain > 0
  assert inside >= 0.9 * logs and named <= 0.05 * logs and certain <= 0.09 * logs


def test_large_true_gains_are_named_and_bounds_stay_below_the_truth():
  effects = [0.0] * 50
  effects[10] = effects[25] = effects[40] = 8.0
  found = 0
  wrong = 0
  too_high = 0
  for seed in range(40):
    judgement = kept_gains.judge(loop(seed, effects), seed_noise.given(1.0), 0.05)
    lines = {each.line for each in judgement.exceeding}
    found += len(lines & {13, 28, 43})
    wrong += not lines <= {13, 28, 43}
    too_high += judgement.certain > 24
    assert judgement.others_by_noise.centre > judgement.by_noise.centre
  assert found >= 0.85 * 120 and wrong <= 4 and too_high <= 4


def test_small_gains_are_certain_together_and_none_alone():
  judgement = kept_gains.judge(loop(0, [1.0] * 40), seed_noise.given(1.0), 0.05)
  assert not judgement.exceeding and judgement.certain_share > 0.5
  assert judgement.others_by_noise is None


def test_the_figures_of_one_log_by_hand():
  rows = [(1.0, True), (0.0, False), (4.0, True), (5.0, False), (3.0, True)]
  tries = [Try(2 + i, score, kept, '', '') for i, (score, kept) in enumerate(rows)]
  log = KeepLog('s', False, tuple(tries), {})
  judgement = kept_gains.judge(log, seed_noise.given(0.5), 0.05)
  first, second = judgement.kept
  assert (first.line, first.over, first.gain, first.tries) == (4, 2, 3.0, 2)
  assert (second.gain, second.tries, second.p) == (-1.0, 2, 1.0)
  assert first.error == pytest.approx(0.5 * 2**0.5) and first.exceeds_noise
  assert judgement.not_kept == (5,) and judgement.improvement == 2.0 and judgement.tries == 4
  text = '\n'.join(wording.lines(log, seed_noise.given(0.5), judgement))
  assert 'line 5 scored better than what stood' in text and 'no gain' in text
  assert '1 of 2 kept gains exceed the noise between seeds' in text


def test_the_noise_of_repeats_and_of_discards():
  rng = np.random.default_rng(0)
  rows = [Try(2 + i, 2 * rng.normal(), i == 0, 'abc', 'Base') for i in range(200)]
  repeats = seed_noise.of_replicates(KeepLog('s', False, tuple(rows), {}))
  assert repeats.deviation == pytest.approx(2, rel=0.1) and repeats.freedom == 199
  assert seed_noise.of_replicates(loop(0, [0.0] * 10)) is None
  same = [Try(2, 1.0, True, 'a', ''), Try(3, 1.0, False, 'a', '')]
  with pytest.raises(TableError, match='the same seed'):
    seed_noise.of_replicates(KeepLog('s', False, tuple(same), {}))
  # A third of the changes does harm.
  log = loop(1, [0.0, 0.0, 0.0, 0.0, -20.0, 0.0] * 100)
  discards = seed_noise.of_discards(log)
  assert discards.deviation == pytest.approx(1.4, abs=0.5)
  with pytest.raises(TableError, match='needs 5; repeat the standing recipe'):
    seed_noise.of_discards(loop(0, [0.0] * 4))


def read(tmp_path, text, **said):
  (tmp_path / 'log').write_text(text)
  return keep_log.read(tmp_path / 'log', Said(**said))


def test_a_log_of_autoresearch_is_read(tmp_path):
  text = (
    'commit\tval_bpb\tmemory_gb\tstatus\tdescription\n'
    'a\t0.99\t44.0\tkeep\tbaseline\nb\t0.000000\t0.0\tcrash\tOOM "x"\n'
    'c\t0.98\t44.0\tkeep\tmore, data\nd\t0.995\t44.0\tdiscard\tless\ne\t\t44.1\tdiscard\tlost\n'
  )
  log = read(tmp_path, text)
  assert (log.score, log.lower_is_better) == ('val_bpb', True)
  assert [(t.line, t.score, t.kept) for t in log.tries] == [
    (2, -0.99, True),
    (4, -0.98, True),
    (5, -0.995, False),
  ]
  assert log.tries[1].description == 'more, data' and log.tries[1].commit == 'c'
  assert log.left_out == {3: 'status crash', 6: 'no score'}


def test_other_names_and_the_other_way(tmp_path):
  text = 'acc,step,outcome\n.5,1,accepted\n.6,2,accepted\n.55,3,rejected\n'
  log = read(tmp_path, text, status='outcome')
  assert log.score == 'acc' and not log.lower_is_better and len(log.tries) == 3
  falling = read(tmp_path, text, status='outcome', lower_is_better=True)
  assert falling.lower_is_better and falling.tries[0].score == -0.5


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('val_bpb,state\n1,keep\n', r"no column 'status' that .* name it with --status_column"),
    ('a,b,status\n1,2,keep\n2,4,keep\n', r'\(columns that may hold it: a, b\); name it with'),
    ('name,status\nx,keep\ny,keep\n', 'no column looks so'),
    ('acc,status\n.1,keep\n.2,maybe\n', r":3: status 'maybe' is none that is known; write keep"),
    ('acc,status\n.1,keep\n.2,discard\n', '1 kept runs have a score'),
    ('acc,status\n.1,keep\n,keep\n.3,keep\n', ':3: kept, and it has no score'),
    ('acc,status\n.1,keep\nx,keep\n.3,keep\n', ":3: 'x' in column 'acc' is not a number"),
    ('acc,status\n.3,keep\n.2,keep\n.1,keep\n', 'say --lower_is_better if it is the other way'),
    ('acc,status\n.1,keep\n.2,"keep\n.3,keep\n.4,keep"\n', 'a quotation mark opens a cell'),
  ],
)
def test_what_cannot_be_judged_names_its_fix(tmp_path, text, said):
  with pytest.raises(TableError, match=said):
    read(tmp_path, text)
