"""kill -9 of the controller and of workers: the resumed campaign is the campaign that was never
interrupted.

The killed campaign and its reference have one seed and one arbiter home, so they meet the same
holdout. Compared is everything a campaign decides or measures; clocks, process ids, resumes and
chain hashes aside. The controller is the real command, `aevo campaign --resume`, in a process of
its own.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from aevo_jax.campaign.decisions.state import CampaignState, fold
from aevo_jax.campaign.setup.setup import LEDGER
from aevo_jax.ledger.append import read

COMMAND = 'from aevo_jax.cli import main; import sys; sys.exit(main())'
PATIENCE_S = 900
SLOW = ('budget.workers = 3', 'release.per_round = 3')


def started(run: pathlib.Path) -> subprocess.Popen:
  """The controller of a prepared or interrupted campaign."""
  with (run / 'controller.log').open('ab') as log:
    return subprocess.Popen(
      [sys.executable, '-c', COMMAND, 'campaign', f'--resume={run}'],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )


def processes_of(run: pathlib.Path, pattern: str = '') -> list[int]:
  """Live processes that work inside of the run directory or whose command line names something
  there.
  """
  found = []
  for entry in pathlib.Path('/proc').iterdir():
    try:
      command = (
        f'{(entry / "cmdline").read_bytes().decode(errors="replace")} {(entry / "cwd").readlink()}/'
        if entry.name.isdigit()
        else ''
      )
    except OSError:
      continue  # it ended meanwhile
    if f'{run}/' in command and re.search(pattern, command):
      found.append(int(entry.name))
  return found


# Forked from the fork server, at work in a trial's directory.
WORKER = r'campaign\.executors\.fork_server.*/trials/'


def length(run: pathlib.Path) -> int:
  return (run / LEDGER).read_bytes().count(b'\n') if (run / LEDGER).exists() else 0


def wait_until(condition, controller: subprocess.Popen, run: pathlib.Path):
  """What `condition` returns once it is true; fails if the controller ends before."""
  limit = time.monotonic() + PATIENCE_S
  while not (value := condition()):
    assert controller.poll() is None, (
      f'the controller ended early: {(run / "controller.log").read_text()[-3000:]}'
    )
    assert time.monotonic() < limit, (
      f'nothing after {PATIENCE_S} s: {(run / "controller.log").read_text()[-3000:]}'
    )
    time.sleep(0.01)
  return value


def kill_controller(run: pathlib.Path, records: int, delay_s: float) -> None:
  """Runs a controller until the ledger has so many records and some time more, kills it, and finds
  nobody left behind.
  """
  controller = started(run)
  wait_until(lambda: length(run) >= records, controller, run)
  time.sleep(delay_s)
  assert controller.poll() is None, 'the campaign was over before the kill'
  controller.kill()
  controller.wait()
  limit = time.monotonic() + 10
  while processes_of(run) and time.monotonic() < limit:
    time.sleep(0.05)
  assert processes_of(run) == [], 'orphans after kill -9 of the controller'


def kill_worker(
  run: pathlib.Path, controller: subprocess.Popen, rng: random.Random, at: float
) -> None:
  """Kills some worker once the ledger has `at` records, at a random time of its life."""
  wait_until(lambda: length(run) >= at, controller, run)
  while True:
    victim = rng.choice(wait_until(lambda: processes_of(run, WORKER), controller, run))
    time.sleep(rng.uniform(0, 1))
    if victim in processes_of(run, WORKER):
      os.kill(victim, signal.SIGKILL)
      return


def finish(controller: subprocess.Popen, run: pathlib.Path) -> None:
  assert controller.wait(timeout=PATIENCE_S) == 0, (run / 'controller.log').read_text()[-3000:]
  assert processes_of(run) == []


def state_of(run: pathlib.Path) -> CampaignState:
  return fold(read(run / LEDGER))


def outcome(run: pathlib.Path) -> dict:
  """All that two runs of one campaign must share."""
  state = state_of(run)
  external = {
    path.name: json.loads(path.read_text()) for path in sorted((run / 'scores').glob('*.json'))
  }
  return {
    'trials': {
      t.trial: (
        t.overlay,
        t.seed,
        t.status,
        t.candidate,
        t.dev,
        t.released,
        t.external_scored,
        t.final_scored,
      )
      for t in state.trials.values()
    },
    'promoted': {round_: promotion['promoted'] for round_, promotion in state.promotions.items()},
    'policies': {round_: policy['digest'] for round_, policy in state.policies.items()},
    'evidence': {
      round_: without_seconds(run / 'evidence' / f'round_{round_:03d}.json')
      for round_ in state.evidence
    },
    'concordance': state.concordance,
    'verdicts': state.verdicts,
    'base': state.base,
    'final': state.final['scores'],
    'secrets': state.revealed['secrets'],
    'items': {name: (scores['items'], scores['file_digest']) for name, scores in external.items()},
  }


def without_seconds(path: pathlib.Path) -> dict:
  """Evidence without the one thing in it that a clock measured."""
  found = json.loads(path.read_text())
  for cost in (found['cost'], *(trial['cost'] for trial in found['trials'])):
    del cost['seconds']
  return found


def assert_same(killed: pathlib.Path, reference: pathlib.Path) -> None:
  ours, theirs = outcome(killed), outcome(reference)
  for part in theirs:
    assert ours[part] == theirs[part], part
  assert all(row[2] == 'sealed' for row in theirs['trials'].values())
  kinds = [record.kind for record in read(killed / LEDGER)]
  for once in (
    'trial_assigned',
    'trial_sealed',
    'trial_scored',
    'external_scored',
    'external_released',
    'policy_written',
    'round_finished',
    'final_scored',
  ):
    assert kinds.count(once) == [record.kind for record in read(reference / LEDGER)].count(once), (
      once
    )


def test_kill_of_a_worker_and_of_the_controller(tiny_run, start_tiny_campaign):
  """One kill of each kind; the reference is the session's uninterrupted campaign, so two runs of
  one seed are compared as well.
  """
  rng = random.Random(20261120)
  run = start_tiny_campaign('killed').run
  controller = started(run)
  kill_worker(run, controller, rng, at=1)
  wait_until(
    lambda: any(r.kind == 'trial_failed' for r in read(run / LEDGER, strict=False)), controller, run
  )
  controller.kill()
  controller.wait()
  kill_controller(
    run,
    records=max(length(run) + 1, rng.randrange(10, length(tiny_run) - 6)),
    delay_s=rng.uniform(0, 2),
  )
  finish(started(run), run)
  assert_same(run, tiny_run)
  state = state_of(run)
  assert state.resumes == 2
  assert [r.payload['cause'] for r in read(run / LEDGER) if r.kind == 'trial_failed'] == [
    'signal_9'
  ]
  started_trials = [r.payload['trial'] for r in read(run / LEDGER) if r.kind == 'trial_started']
  assert set(started_trials) == set(state.trials)


@pytest.mark.slow
def test_three_kills_of_each_kind(start_tiny_campaign, capsys):
  """A reference twice, one campaign with three kills of the controller, one with three kills of
  workers.
  """
  seconds = {}
  runs = {
    name: start_tiny_campaign(f'slow-{name}', *SLOW).run
    for name in ('reference', 'twin', 'controller', 'worker')
  }
  for name in ('reference', 'twin'):
    begin = time.monotonic()
    finish(started(runs[name]), runs[name])
    seconds[name] = time.monotonic() - begin
  assert_same(runs['twin'], runs['reference'])

  rng, begin = random.Random(7), time.monotonic()
  third, points = (length(runs['reference']) - 8) // 3, []
  for part in range(3):
    # Past what is there, so that each kill hits a controller at work and not one that still starts.
    points.append(max(2 + part * third + rng.randrange(third), length(runs['controller']) + 1))
    kill_controller(runs['controller'], points[-1], delay_s=rng.uniform(0, 2))
  finish(started(runs['controller']), runs['controller'])
  seconds['controller'] = time.monotonic() - begin
  assert_same(runs['controller'], runs['reference'])
  assert state_of(runs['controller']).resumes == 3

  begin, controller = time.monotonic(), started(runs['worker'])
  # No trial may lose all of its attempts to us, so the kills are spread over the campaign.
  for at in (2, length(runs['reference']) // 3, 2 * length(runs['reference']) // 3):
    kill_worker(runs['worker'], controller, rng, at)
  finish(controller, runs['worker'])
  seconds['worker'] = time.monotonic() - begin
  assert_same(runs['worker'], runs['reference'])
  failures = [r.payload for r in read(runs['worker'] / LEDGER) if r.kind == 'trial_failed']
  assert [(f['cause'], f['final']) for f in failures] == [('signal_9', False)] * 3
  with capsys.disabled():
    print(
      f'\nkills of the controller at records {points} of {length(runs["reference"])}, of '
      f'workers {[f["trial"] for f in failures]}; '
      f'seconds { ({k: round(v, 1) for k, v in seconds.items()}) }'
    )
