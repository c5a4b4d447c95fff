"""The arbiter process: it alone knows the holdout's secret, and tells little.

  python -m aevo_jax.evaluation.servers.arbiter \\
    --home=DIR --holdout=NAME --campaign=NAME ... (and the evaluator's arguments)

It draws the external and final sets in memory. The secret is HMAC(the machine's arbiter key,
holdout name), and the name is made of constitution and campaign seed: a campaign repeated on this
machine meets the same holdout. The constitution holds only the secret's commitment. Scores lie in
`home`/campaigns/<campaign>, out of every worker's reach, until `reveal`.

  score         trial, weights, file_digest      -> {}
                scored and kept; nothing is told
  concordance   round, rounds, dev, ...          -> {"streams"}
                by family and overall, how far external followed dev: discordant pairs and coarse
                results of the tests; asked once a round, and the same question again gets the
                same answer
  control       round, arms                      -> {"result"}
                does the revised arm's recipe beat the control arm's and the standing one?
                differences, p value, numbers of runs; asked once a round, likewise
  release       round, trials                    -> {"scores", "families"}
                rounded, at most release.per_round trials a round
  final         candidate, weights, file_digest  -> {}
                scores a candidate of the final, once each
  final_scores                                   -> {"scores"}
                summaries of all that `final` scored
  reveal        out                              -> {"secret"}
                ends the secrecy: everything is written to `out`
  check         weights, file_digest             -> {}
                loads weights and scores nothing: shows that the engine works
"""

import contextlib
import hmac
import json
import math
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence

from aevo_jax.evaluation.servers import arguments as arguments_lib
from aevo_jax.evaluation.servers import protocol, told
from aevo_jax.evaluation.servers.score_files import write_scores
from aevo_jax.stats.comparisons import recipe_comparison

KEY = 'arbiter.key'
KEY_BYTES = 32
OPERATIONS = (
  'score',
  'concordance',
  'control',
  'release',
  'final',
  'final_scores',
  'reveal',
)

# split, weights, file digest -> item results and their summary
Score = Callable[[str, pathlib.Path, str], tuple[list, dict]]


# -- the secret ------------------------------------------------------------------------------------


def default_home() -> pathlib.Path:
  """Finds where the arbiter keeps its key and scores.

  Returns:
    $AEVO_ARBITER_HOME, or a folder in the user's state directory.
  """
  home = os.environ.get('AEVO_ARBITER_HOME')
  if home:
    return pathlib.Path(home)
  return pathlib.Path.home() / '.local' / 'state' / 'aevo' / 'arbiter'


def machine_key(home: pathlib.Path) -> bytes:
  """Reads this machine's key, made at random on first use, readable by its owner alone.

  Args:
    home: the arbiter's folder; it is created.

  Returns:
    The key of 32 bytes. Raises ValueError where its file has another length.
  """
  home.mkdir(parents=True, exist_ok=True, mode=0o700)
  path = home / KEY
  if not path.exists():
    _make_key(path)
  key = path.read_bytes()
  if len(key) != KEY_BYTES:
    raise ValueError(
      f'{path} is damaged ({KEY_BYTES} bytes expected); move it away to start a new arbiter'
    )
  return key


def _make_key(path: pathlib.Path) -> None:
  """Puts a whole new key at `path`, or leaves the one that another process put there first."""
  descriptor, name = tempfile.mkstemp(prefix='.key_', dir=path.parent)  # its mode is 0o600
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(secrets.token_bytes(KEY_BYTES))
      file.flush()
      os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
      os.link(name, path)
  finally:
    os.unlink(name)


def holdout_secret(home: pathlib.Path, holdout: str) -> bytes:
  """Derives the secret of one holdout from the machine's key.

  Args:
    home: the arbiter's folder.
    holdout: the holdout's name.

  Returns:
    The secret of 32 bytes.
  """
  return hmac.digest(machine_key(home), f'holdout|{holdout}'.encode(), 'sha256')


# -- what is told of scores ------------------------------------------------------------------------


def released_families(summary: dict, decimals: int) -> dict[str, list]:
  """Rounds accuracies by family.

  Args:
    summary: of a set.
    decimals: that a release has.

  Returns:
    Family -> [accuracy, items].
  """
  families = {}
  for family, proportion in summary['by_family'].items():
    families[family] = [round(proportion['accuracy'], decimals), proportion['total']]
  return families


def arm_result(runs: Mapping[str, Sequence[dict]], constitution) -> dict | None:
  """Compares the arms of a revision; the numbers are rounded as far as they are told.

  Args:
    runs: 'revised', 'control', 'standing' -> proportions on the external set.
    constitution: level of the test, and the power of what it could have found.

  Returns:
    How much better the revised recipe is than the control recipe, and than the standing one, in
    accuracy to three decimals; the p value of the claim that it is better than both (the larger of
    two); the least p value that so few runs could give; the difference from the control recipe that
    is found with the power, None where nothing could be significant; numbers of runs. None where an
    arm has fewer than two runs.
  """
  correct = {}
  for arm in ('revised', 'control', 'standing'):
    correct[arm] = [proportion['correct'] for proportion in runs.get(arm, ())]
  parts = []
  for other in ('control', 'standing'):
    part = recipe_comparison.compare(
      correct['revised'], correct[other], constitution.control.alpha, constitution.reversal.power
    )
    if part is None:
      return None
    parts.append(part)
  items = runs['revised'][0]['total']
  detectable = parts[0].detectable / items
  return {
    'difference': round(parts[0].difference / items, 3),
    'over_standing': round(parts[1].difference / items, 3),
    'p_value': round(max(part.p_value for part in parts), 4),
    'least_p_value': round(max(part.least for part in parts), 4),
    'detectable': round(detectable, 3) if math.isfinite(detectable) else None,
    **{arm: len(counts) for arm, counts in correct.items()},
  }


class Quota:
  """The scores that were released, by round; kept on disk, so that a restart does not refill it."""

  def __init__(self, path: pathlib.Path, per_round: int):
    self._path = path
    self._per_round = per_round
    self._released: dict[str, list[str]] = {}
    if path.exists():
      self._released = json.loads(path.read_text())

  def take(self, round_: int, trials: Sequence[str]) -> None:
    """Books releases; a trial that was released already is free.

    Args:
      round_: the round that pays.
      trials: the trials to release.

    Raises:
      RequestError: more than the round allows. Nothing is booked.
    """
    before = self._released.get(str(round_), [])
    booked = [*before, *(trial for trial in trials if trial not in before)]
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
  """The arbiter's operations; each takes a request and returns the reply.

  Args:
    private: folder of this campaign's scores; it is created, for its owner alone.
    secret: of the holdout.
    constitution: gives the rules of releases.
    score: scores weights on a set.
  """

  def __init__(self, *, private: pathlib.Path, secret: bytes, constitution, score: Score):
    self._private = private
    self._secret = secret
    self._constitution = constitution
    self._score = score
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    self._quota = Quota(private / 'released.json', constitution.release.per_round)

  def score(self, request: dict) -> dict:
    """Scores a trial on the external set.

    Args:
      request: 'trial', 'weights' and 'file_digest'.

    Returns:
      Nothing of the score. Raises RequestError where the trial was scored with other weights.
    """
    return self._keep('external', request['trial'], request)

  def final(self, request: dict) -> dict:
    """Scores a candidate on the final set.

    Args:
      request: 'candidate', 'weights' and 'file_digest'.

    Returns:
      Nothing of the score. Raises RequestError where it was scored with other weights.
    """
    return self._keep('final', request['candidate'], request)

  def release(self, request: dict) -> dict:
    """Releases rounded scores within the round's quota.

    Args:
      request: 'round' and 'trials'.

    Returns:
      'scores' and 'families' by trial. Raises RequestError beyond the quota.
    """
    decimals = self._constitution.release.decimals
    scores = {}
    families = {}
    for trial in request['trials']:
      scores[trial] = round(self._accuracy(trial), decimals)
      families[trial] = released_families(self._summary(trial), decimals)
    self._quota.take(request['round'], request['trials'])
    return {'scores': scores, 'families': families}

  def concordance(self, request: dict) -> dict:
    """Measures how far external followed dev in a round; asked once a round.

    Args:
      request: 'round', 'dev' (trial -> family -> right answers) and a question, see `told.told`.

    Returns:
      'streams': see `told.told`.
    """
    return self._once('concordance', request, self._concordance)

  def control(self, request: dict) -> dict:
    """Compares the arms of a revision; asked once a round.

    Args:
      request: 'round' and 'arms' (arm -> trials, see `decisions.arms.compared`).

    Returns:
      'result': see `arm_result`.
    """
    return self._once('control', request, self._control)

  def final_scores(self, request: dict) -> dict:
    """Returns 'scores': the summaries of all that `final` scored, by candidate."""
    del request
    scores = {}
    for path in sorted(self._private.glob('*.final.json')):
      scores[path.name.split('.')[0]] = json.loads(path.read_text())['summary']
    return {'scores': scores}

  def reveal(self, request: dict) -> dict:
    """Ends the secrecy.

    Args:
      request: 'out', a folder that gets all score files.

    Returns:
      'secret': as hex digits.
    """
    out = pathlib.Path(request['out'])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(self._private.glob('*.*.json')):
      shutil.copyfile(path, out / path.name)
    return {'secret': self._secret.hex()}

  def _path(self, split: str, name: str) -> pathlib.Path:
    if not name.isalnum():
      raise protocol.RequestError(f'{name!r} is not a trial name')
    return self._private / f'{name}.{split}.json'

  def _stored(self, trial: str) -> dict:
    path = self._path('external', trial)
    if not path.exists():
      raise protocol.RequestError(f'{trial} has no external score yet')
    return json.loads(path.read_text())

  def _summary(self, trial: str) -> dict:
    return self._stored(trial)['summary']

  def _accuracy(self, trial: str) -> float:
    return self._summary(trial)['overall']['accuracy']

  def _keep(self, split: str, name: str, request: dict) -> dict:
    """Scores a candidate once, and keeps its score file."""
    path = self._path(split, name)
    digest = request['file_digest']
    if path.exists():
      known = json.loads(path.read_text())['file_digest']
      if known != digest:
        raise protocol.RequestError(
          f'{name} was scored before with other weights ({known}); a {split} score is given once'
        )
      return {}
    results, summary = self._score(split, pathlib.Path(request['weights']), digest)
    write_scores(path, results, summary, file_digest=digest)
    return {}

  def _once(self, name: str, request: dict, answer: Callable[[dict], dict]) -> dict:
    """The answer to a question that a round may ask once.

    It tells something of the scores, and other questions would tell more.

    Raises:
      RequestError: the round asked another question of this name before.
    """
    # Not a score, so not `<trial>.<set>.json`.
    path = self._private / f'{name}_{int(request["round"])}.json'
    if not path.exists():
      temporary = path.with_suffix('.tmp')
      temporary.write_text(json.dumps({'request': request, 'answer': answer(request)}))
      temporary.rename(path)
    stored = json.loads(path.read_text())
    if stored['request'] != json.loads(json.dumps(request)):
      raise protocol.RequestError(
        f'round {request["round"]} asked for its {name} before, about other trials; it is told once'
      )
    return stored['answer']

  def _concordance(self, request: dict) -> dict:
    external = {trial: self._bits(trial) for trial in request['dev']}
    decimals = self._constitution.release.decimals
    return {'streams': told.told(request['dev'], external, request, decimals=decimals)}

  def _bits(self, trial: str) -> dict[str, str]:
    from aevo_jax.evaluation.scoring import from_rows  # noqa: PLC0415 - it starts JAX

    rows = self._stored(trial)['items']
    return told.bits(from_rows(rows), self._constitution.objective.verifier)

  def _control(self, request: dict) -> dict:
    runs = {}
    for arm, trials in request['arms'].items():
      runs[arm] = [self._summary(trial)['overall'] for trial in trials]
    return {'result': arm_result(runs, self._constitution)}


def main() -> None:
  """Serves requests until standard input ends."""
  parser = arguments_lib.parser('external and final scores')
  parser.add_argument('--home', required=True, type=pathlib.Path)
  parser.add_argument('--holdout', required=True, help='name the secret is derived from')
  parser.add_argument('--campaign', required=True, help='name of the private directory')
  arguments = parser.parse_args()
  protocol.start(arguments.threads, arguments.cache)
  from aevo_jax.evaluation.servers import private_scores  # noqa: PLC0415 - JAX, threads pinned

  secret = holdout_secret(arguments.home, arguments.holdout)
  private = arguments.home / 'campaigns' / arguments.campaign
  score = private_scores.open_scores(
    arguments.constitution,
    arguments.base,
    secret=secret,
    log=private / 'vllm.log',
    threads=arguments.threads,
  )
  arbiter = Arbiter(private=private, secret=secret, constitution=score.constitution, score=score)
  handlers = {name: getattr(arbiter, name) for name in OPERATIONS}
  protocol.serve(handlers | {'check': score.check})
  score.close()


if __name__ == '__main__':
  main()
