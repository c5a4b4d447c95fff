"""The arbiter: what it tells, how often, and to whom its home is open."""

import concurrent.futures
import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from aevo_jax.campaign.sandbox import confinement
from aevo_jax.config.constitution import Release
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers import arbiter as arbiter_lib
from aevo_jax.evaluation.servers.arbiter import Arbiter, Quota, holdout_secret, machine_key
from aevo_jax.evaluation.servers.protocol import RequestError

CANARY = 'canary 42'
REPOSITORY = pathlib.Path(arbiter_lib.__file__).resolve().parents[3]


class Rules:
  """The part of a constitution that the arbiter reads."""

  release = Release(per_round=2, decimals=2)


def make(private, accuracies=None, calls=None) -> Arbiter:
  """An arbiter over 1,000 imaginary items; trial 'x' answers `accuracies[file_digest]` of them."""

  def score(split, weights, file_digest):
    if calls is not None:
      calls.append((split, file_digest))
    right = round(1000 * (accuracies or {}).get(file_digest, 0.1234))
    results = [ItemResult('family', 'kind', CANARY, i < right, i < right) for i in range(1000)]
    return results, scoring.summary(results, 'strict')

  return Arbiter(private=private, secret=b's' * 32, constitution=Rules, score=score)


def request(trial, digest='d', **more):
  return {'trial': trial, 'candidate': trial, 'weights': '/w', 'file_digest': digest, **more}


def test_replies_hold_no_item_text_and_no_unrounded_score(tmp_path):
  arbiter = make(tmp_path / 'private', {'d': 0.1234})
  replies = [
    arbiter.score(request('r1w0')),
    arbiter.score(request('r1w1')),
    arbiter.release({'round': 1, 'trials': ['r1w0', 'r1w1']}),
    arbiter.final(request('base')),
  ]
  assert replies[0] == replies[1] == replies[3] == {}
  assert replies[2] == {
    'scores': {'r1w0': 0.12, 'r1w1': 0.12},
    'families': {t: {'family': [0.12, 1000]} for t in ('r1w0', 'r1w1')},
  }
  text = json.dumps(replies)
  assert CANARY not in text and '123' not in text
  final = arbiter.final_scores({})
  assert final['scores']['base']['overall']['correct'] == 123 and CANARY not in json.dumps(
    final
  )  # after the last round only, and no items


def test_no_operation_but_reveal_tells_the_secret(tmp_path):
  arbiter = make(tmp_path / 'private')
  arbiter.score(request('r1w0'))
  assert arbiter.reveal({'out': str(tmp_path / 'out')}) == {'secret': (b's' * 32).hex()}
  assert json.loads((tmp_path / 'out' / 'r1w0.external.json').read_text())['items'][0][2] == CANARY


def test_the_quota_holds_across_restarts_and_repeats_are_free(tmp_path):
  arbiter = make(tmp_path / 'private')
  for trial in ('r1w0', 'r1w1', 'r1w2', 'r2w0'):
    arbiter.score(request(trial))
  arbiter.release({'round': 1, 'trials': ['r1w0', 'r1w1']})
  for again in (arbiter, make(tmp_path / 'private')):
    assert again.release({'round': 1, 'trials': ['r1w1', 'r1w0']})['scores'] == {
      'r1w0': 0.12,
      'r1w1': 0.12,
    }
    with pytest.raises(RequestError, match='may have 2'):
      again.release({'round': 1, 'trials': ['r1w2']})
    with pytest.raises(RequestError, match='may have 2'):
      again.release({'round': 1, 'trials': ['r1w0', 'r1w1', 'r1w2']})
  assert set(make(tmp_path / 'private').release({'round': 2, 'trials': ['r2w0']})['scores']) == {
    'r2w0'
  }


def test_a_refused_release_books_nothing(tmp_path):
  quota = Quota(tmp_path / 'released.json', 2)
  with pytest.raises(RequestError):
    quota.take(1, ['a', 'b', 'c'])
  quota.take(1, ['a', 'b'])
  arbiter = make(tmp_path / 'private')
  arbiter.score(request('r1w0'))
  with pytest.raises(RequestError, match='no external score yet'):
    arbiter.release({'round': 1, 'trials': ['r1w0', 'r1w9']})
  assert Quota(tmp_path / 'private' / 'released.json', 2)._released == {}


@pytest.mark.parametrize('split', ['score', 'final'])
def test_other_weights_under_a_scored_name_are_refused_and_the_same_are_not_scored_twice(
  tmp_path, split
):
  calls = []
  arbiter = make(tmp_path / 'private', calls=calls)
  operation = getattr(arbiter, split)
  assert operation(request('promoted0', 'first')) == operation(request('promoted0', 'first')) == {}
  assert len(calls) == 1
  for again in (arbiter, make(tmp_path / 'private', calls=calls)):
    with pytest.raises(RequestError, match='given once'):
      getattr(again, split)(request('promoted0', 'second'))
  assert len(calls) == 1


@pytest.mark.parametrize('name', ['../r1w0', 'a/b', '', '.', 'r1 w0', 'a.b'])
def test_names_are_no_paths(tmp_path, name):
  with pytest.raises(RequestError, match='not a trial name'):
    make(tmp_path / 'private').score(request(name))


def test_the_machine_key_is_private_made_once_and_a_damaged_one_is_refused(tmp_path):
  home = tmp_path / 'home'
  key = machine_key(home)
  assert key == machine_key(home) and len(key) == 32
  assert (
    stat.S_IMODE((home / arbiter_lib.KEY).stat().st_mode) == 0o600
    and stat.S_IMODE(home.stat().st_mode) == 0o700
  )
  assert holdout_secret(home, 'a-0') == holdout_secret(home, 'a-0') != holdout_secret(home, 'a-1')
  assert holdout_secret(home, 'a-0') != holdout_secret(tmp_path / 'other', 'a-0')
  (home / arbiter_lib.KEY).write_bytes(b'short')
  with pytest.raises(ValueError, match='damaged'):
    machine_key(home)


def test_campaigns_that_start_at_once_get_one_key(tmp_path):
  """None reads a key that another is still writing."""
  home = tmp_path / 'home'
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    keys = set(pool.map(machine_key, [home] * 64))
  assert len(keys) == 1
  assert [path.name for path in home.iterdir()] == [arbiter_lib.KEY]


CONFINED = """
import pathlib, sys
own, home = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
confined = sys.argv[3] == 'confined'
from aevo_jax.campaign.sandbox import confinement as sandbox
package = pathlib.Path(sandbox.__file__).resolve().parents[2]
if confined:
  read = (*sandbox.system_read_paths(), package)
  sandbox.confine(sandbox.Confinement(read=read, write=(*sandbox.system_write_paths(), own)))
opened = []
for path in sorted(home.rglob('*')) if not confined else [pathlib.Path(p) for p in sys.argv[4:]]:
  try:
    if path.is_file():
      path.read_bytes()
      opened.append(path.name)
  except OSError:
    pass
try:
  opened += [p.name for p in home.iterdir()]
except OSError:
  pass
print(sorted(set(opened)))
"""


@pytest.mark.skipif(not confinement.available()[0], reason=confinement.available()[1])
def test_a_confined_worker_cannot_open_the_arbiters_home(tmp_path):
  home, own = tmp_path / 'arbiter', tmp_path / 'own'
  own.mkdir()
  machine_key(home)
  make(home / 'campaigns' / 'c').score(request('r1w0'))
  files = [str(p) for p in home.rglob('*') if p.is_file()]
  environment = {
    'PATH': os.environ['PATH'],
    'PYTHONPATH': str(REPOSITORY),
    'HOME': str(own),
    'PYTHONDONTWRITEBYTECODE': '1',
  }

  def run(mode):
    result = subprocess.run(
      [sys.executable, '-c', CONFINED, str(own), str(home), mode, *files],
      cwd=own,
      env=environment,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()

  assert run('confined') == '[]'
  control = run('open')
  assert arbiter_lib.KEY in control and 'r1w0.external.json' in control


def test_workers_of_the_finished_run_were_confined_and_saw_no_arbiter_path(tiny_run):
  inputs = json.loads((tiny_run / 'inputs.json').read_text())
  for trial in (tiny_run / 'trials').iterdir():
    spec = (trial / 'spec.json').read_text()
    assert (
      inputs['arbiter_home'] not in spec
      and inputs['arbiter_campaign'] not in spec
      and inputs['holdout'] not in spec
    )
    assert json.loads(spec)['locked'] == confinement.available()[0]


def test_before_the_reveal_the_run_directory_holds_no_external_item(tiny_run):
  """What the controller writes while rounds go on: dev items only; external files come with
  `reveal`.
  """
  records = [json.loads(line) for line in (tiny_run / 'ledger.jsonl').read_text().splitlines()]
  kinds = [record['kind'] for record in records]
  reveal = records[kinds.index('secrets_revealed')]['payload']['secrets']['holdout']
  before = '\n'.join(json.dumps(r) for r in records[: kinds.index('secrets_revealed')])
  assert reveal not in before
  released = [r['payload']['score'] for r in records if r['kind'] == 'external_released']
  assert released and all(score == round(score, 2) for score in released)
