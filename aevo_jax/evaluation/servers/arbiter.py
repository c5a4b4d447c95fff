"""The arbiter process: alone it knows the holdout's secret, draws the external and final sets in
memory, and tells little.

  python -m aevo_jax.evaluation.servers.arbiter --home=DIR --holdout=NAME --campaign=NAME ... (and the
  evaluator's arguments)

The secret is HMAC(the machine's arbiter key, holdout name), and the name is made of constitution
and campaign seed: a campaign repeated on this machine meets the same holdout. The constitution
holds only the secret's commitment. Scores lie in `home`/campaigns/<campaign>, out of every worker's
reach, until `reveal`.

  score   trial, weights, file_digest      -> {}                      scored and kept; nothing is
  told ranks   trials, seed                     -> {"ranks"}               0 = lowest external
  score; ties broken by the seeded coin concordance round, trials, dev, ...      -> {"streams"}
  by family and overall, how far external followed dev: rank counts and rounded moments control
    round, rounds                    -> {"result"}              did the revised arm beat the control
    arm? difference, p value, numbers of trials
                                                                      (each is asked once a round;
                                                                      the same question again gets
                                                                      the same answer)
  release round, trials                    -> {"scores", "families"}  rounded, at most
  release.per_round trials a round final   candidate, weights, file_digest  -> {}
  scores a candidate of the final, once each final_scores                             -> {"scores"}
  summaries of all that `final` scored reveal  out                              -> {"secret"}
  ends the secrecy: everything is written to `out`
"""

import functools
import hmac
import json
import os
import pathlib
import random
import secrets
import shutil
from collections.abc import Callable

from aevo_jax.evaluation.servers import protocol
from aevo_jax.evaluation.servers.evaluator import load_sealed, parse_arguments, write_scores
from aevo_jax.stats import concordance, permutation

KEY = 'arbiter.key'


def default_home() -> pathlib.Path:
  """Where the arbiter keeps its key and scores: $AEVO_ARBITER_HOME, or the user's state directory."""
  return pathlib.Path(
    os.environ.get('AEVO_ARBITER_HOME')
    or pathlib.Path.home() / '.local' / 'state' / 'aevo' / 'arbiter'
  )


def machine_key(home: pathlib.Path) -> bytes:
  """This machine's key, made at random on first use, readable by its owner alone."""
  home.mkdir(parents=True, exist_ok=True, mode=0o700)
  path = home / KEY
  try:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
  except FileExistsError:
    key = path.read_bytes()
    if len(key) != 32:
      raise ValueError(
        f'{path} is damaged (32 bytes expected); move it away to start a new arbiter'
      ) from None
    return key
  with os.fdopen(descriptor, 'wb') as file:
    key = secrets.token_bytes(32)
    file.write(key)
    file.flush()
    os.fsync(file.fileno())
  return key


def holdout_secret(home: pathlib.Path, holdout: str) -> bytes:
  """The secret of one holdout, derived from the machine's key."""
  return hmac.digest(machine_key(home), f'holdout|{holdout}'.encode(), 'sha256')


def rank(accuracies: dict[str, float], seed: int) -> dict[str, int]:
  """trial -> rank, 0 = lowest; ties are broken by a seeded coin that does not depend on the order
  of the trials.
  """
  coin = random.Random(seed)
  order = sorted((accuracies[trial], coin.random(), trial) for trial in sorted(accuracies))
  return {trial: place for place, (_, _, trial) in enumerate(order)}


def accuracy(summary: dict, stream: str) -> float | None:
  """Of a family or 'overall'; None where the set has no such family."""
  proportion = summary['overall'] if stream == 'overall' else summary['by_family'].get(stream)
  return None if proportion is None else proportion['accuracy']


def released_families(summary: dict, decimals: int) -> dict[str, list]:
  """Family -> [accuracy, items], as it is told."""
  return {
    family: [round(p['accuracy'], decimals), p['total']]
    for family, p in summary['by_family'].items()
  }


def arm_result(rounds: list[dict]) -> dict | None:
  """What is told of a control arm: the revised arm's gain in accuracy to three decimals, and the
  exact p value that it is not better.

  Args:
    rounds: arm -> trial -> proportion on the external set, for each round since the revision.
  """
  strata = [
    permutation.Stratum(
      *([p['correct'] for p in round_[arm].values()] for arm in ('revised', 'control'))
    )
    for round_ in rounds
  ]
  found = permutation.compare(strata)
  if found is None:
    return None
  items = next(p['total'] for p in rounds[0]['revised'].values())
  return {
    'difference': round(found.difference / items, 3),
    'p_value': round(found.p_value, 4),
    'least_p_value': round(found.least, 4),
    'rounds': len(rounds),
    'revised': sum(len(s.revised) for s in strata),
    'control': sum(len(s.control) for s in strata),
  }


class Quota:
  """Which scores were released in which round; kept on disk, so that a restart does not refill it."""

  def __init__(self, path: pathlib.Path, per_round: int):
    self._path, self._per_round = path, per_round
    self._released: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}

  def take(self, round_: int, trials: list[str]) -> None:
    """Books releases; asking again for what was released is free.

    Raises:
      RequestError: more than the round allows. Nothing is booked.
    """
    booked = [*self._released.get(str(round_), [])]
    booked += [t for t in trials if t not in booked]
    if len(booked) > self._per_round:
      raise protocol.RequestError(
        f'round {round_} may have {self._per_round} external scores released, and '
        f'{len(booked)} were asked for'
      )
    self._released[str(round_)] = booked
    temporary = self._path.with_suffix('.tmp')
    temporary.write_text(json.dumps(self._released))
    temporary.rename(self._path)


class Arbiter:
  """The arbiter's operations, given something that scores weights on a set."""

  def __init__(self, *, private: pathlib.Path, secret: bytes, constitution, score):
    self._private, self._secret, self._constitution, self._score = (
      private,
      secret,
      constitution,
      score,
    )
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    self._quota = Quota(private / 'released.json', constitution.release.per_round)

  def _path(self, split: str, name: str) -> pathlib.Path:
    if not name.isalnum():
      raise protocol.RequestError(f'{name!r} is not a trial name')
    return self._private / f'{name}.{split}.json'

  def _summary(self, trial: str) -> dict:
    path = self._path('external', trial)
    if not path.exists():
      raise protocol.RequestError(f'{trial} has no external score yet')
    return json.loads(path.read_text())['summary']

  def _accuracy(self, trial: str) -> float:
    return self._summary(trial)['overall']['accuracy']

  def score(self, request: dict) -> dict:
    return self._keep('external', request['trial'], request)

  def final(self, request: dict) -> dict:
    return self._keep('final', request['candidate'], request)

  def _keep(self, split: str, name: str, request: dict) -> dict:
    path = self._path(split, name)
    if path.exists():
      known = json.loads(path.read_text())['file_digest']
      if known != request['file_digest']:
        raise protocol.RequestError(
          f'{name} was scored before with other weights ({known}); a {split} score is given once'
        )
      return {}
    results, summary = self._score(split, pathlib.Path(request['weights']), request['file_digest'])
    write_scores(path, results, summary, file_digest=request['file_digest'])
    return {}

  def ranks(self, request: dict) -> dict:
    return {
      'ranks': rank({trial: self._accuracy(trial) for trial in request['trials']}, request['seed'])
    }

  def release(self, request: dict) -> dict:
    scores = {
      t: round(self._accuracy(t), self._constitution.release.decimals) for t in request['trials']
    }
    self._quota.take(request['round'], request['trials'])
    return {
      'scores': scores,
      'families': {
        t: released_families(self._summary(t), self._constitution.release.decimals)
        for t in request['trials']
      },
    }

  def _once(self, name: str, request: dict, answer: Callable[[], dict]) -> dict:
    """The answer to a question that a round may ask once: it tells something of the scores, and
    other questions would tell more.

    Raises:
      RequestError: the round asked another question of this name before.
    """
    path = (
      self._private / f'{name}_{int(request["round"])}.json'
    )  # not a score, so not `<trial>.<set>.json`
    if not path.exists():
      temporary = path.with_suffix('.tmp')
      temporary.write_text(json.dumps({'request': request, 'answer': answer()}))
      temporary.rename(path)
    told = json.loads(path.read_text())
    if told['request'] != json.loads(json.dumps(request)):
      raise protocol.RequestError(
        f'round {request["round"]} asked for its {name} before, about other trials; it is told once'
      )
    return told['answer']

  def concordance(self, request: dict) -> dict:
    return self._once('concordance', request, lambda: self._concordance(request))

  def control(self, request: dict) -> dict:
    return self._once('control', request, lambda: self._control(request))

  def _concordance(self, request: dict) -> dict:
    scores = {t: self._summary(t) for t in request['trials']}
    external = {
      stream: {t: accuracy(scores[t], stream) for t in scores} for stream in request['dev']
    }
    return {
      'streams': concordance.reduce_round(
        request['dev'], external, request['variance'], request['seed']
      )
    }

  def _control(self, request: dict) -> dict:
    return {
      'result': arm_result(
        [
          {arm: {t: self._summary(t)['overall'] for t in trials} for arm, trials in round_.items()}
          for round_ in request['rounds']
        ]
      )
    }

  def final_scores(self, request: dict) -> dict:
    del request
    return {
      'scores': {
        path.name.split('.')[0]: json.loads(path.read_text())['summary']
        for path in sorted(self._private.glob('*.final.json'))
      }
    }

  def reveal(self, request: dict) -> dict:
    out = pathlib.Path(request['out'])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(self._private.glob('*.*.json')):
      shutil.copyfile(path, out / path.name)
    return {'secret': self._secret.hex()}


def main() -> None:
  parser = parse_arguments('external and final scores')
  parser.add_argument('--home', required=True, type=pathlib.Path)
  parser.add_argument('--holdout', required=True, help='name the secret is derived from')
  parser.add_argument('--campaign', required=True, help='name of the private directory')
  arguments = parser.parse_args()
  protocol.start(arguments.threads, arguments.cache)
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.data import chat_template
  from aevo_jax.data import tokenizer as tokenizers
  from aevo_jax.evaluation import scoring, sets
  from aevo_jax.models.hf import checkpoint
  from aevo_jax.models.params import outline

  secret = holdout_secret(arguments.home, arguments.holdout)
  constitution = constitution_lib.read(arguments.constitution)
  if constitution.holdout.commitment != sets.commitment(secret):
    raise SystemExit(
      f'the constitution commits to {constitution.holdout.commitment or "nothing"}, and '
      "this machine's arbiter holds "
      f'{sets.commitment(secret)}: the run was started on another machine, or its '
      'constitution was edited'
    )
  config = checkpoint.read_config(arguments.base)
  structure, _ = outline(config)
  tokenizer, chat = tokenizers.load(str(arguments.base)), chat_template.read(str(arguments.base))
  private = arguments.home / 'campaigns' / arguments.campaign
  answers_by = None
  if constitution.evaluation.engine == 'vllm':
    from aevo_jax.evaluation import served

    answers_by = served.sampler(
      constitution,
      arguments.base,
      structure,
      config,
      tokenizer,
      chat,
      private / 'vllm.log',
      threads=arguments.threads,
      url=constitution.evaluation.arbiter_url,
    )

  @functools.cache
  def scorer(split: str):
    items = sets.private_items(
      constitution,
      split,
      secret,
      sets.own_tasks(constitution, arguments.constitution.with_name(sets.TASKS)),
    )
    return scoring.Scorer(
      structure,
      tokenizer,
      items,
      max_new_tokens=constitution.objective.max_new_tokens,
      chat=chat,
      verifier=constitution.objective.verifier,
      sampler=answers_by,
    )

  def score(split: str, weights: pathlib.Path, file_digest: str):
    params = load_sealed(weights, file_digest, config)
    if answers_by is not None:
      answers_by.load(weights, file_digest, params)
    results = scorer(split)(params)
    return results, scoring.summary(results, constitution.objective.verifier)

  arbiter = Arbiter(private=private, secret=secret, constitution=constitution, score=score)
  protocol.serve(
    {
      name: getattr(arbiter, name)
      for name in (
        'score',
        'ranks',
        'concordance',
        'control',
        'release',
        'final',
        'final_scores',
        'reveal',
      )
    }
  )
  if answers_by is not None:
    answers_by.close()


if __name__ == '__main__':
  main()
