"""A trial as files: what goes in, what comes out, and the seal.

    trials/r1w0/
      spec.json  recipe.gin  overlay.gin  substrate.fork.json      written by the controller
      resolved.json  liveness.json  metrics.jsonl  tensorboard/    written by the worker
      checkpoints/  export/  result.json  log.txt

The worker's `result.json` is a claim. What counts is the seal: the controller's digest over every
file once the worker has exited, and the logical digest of the exported weights, which names the
candidate.
"""

import dataclasses
import hashlib
import json
import pathlib

EXPORT = pathlib.Path('export') / 'model.safetensors'
RESULT = 'result.json'


@dataclasses.dataclass(frozen=True)
class TrialSpec:
  """A trial's whole input. Nothing else reaches a worker.

  Attributes:
    trial: its name, r<round>w<worker>, or f<recipe>s<seed> in the final.
    store: root of the substrate store.
    substrate: digest of the stored object.
    base_digest: logical digest of the base checkpoint.
    constitution: its digest.
    recipe: full recipe text.
    overlay: the part that an agent wrote, canonical.
    seed: of the trial.
    size: puzzle size.
    tokens: budget of tokens.
    steps: budget of steps.
    threads: of the worker process.
    axes: the constitution's search space, for the liveness check.
    cache: read-only compilation cache, '' for none.
    locked: whether the worker confines itself.
  """

  trial: str
  store: str
  substrate: str
  base_digest: str
  constitution: str
  recipe: str
  overlay: str
  seed: int
  size: str
  tokens: int
  steps: int
  threads: int
  axes: dict
  cache: str
  locked: bool

  def write(self, directory: pathlib.Path) -> None:
    """Writes spec.json, and the recipe beside it for people to read.

    Args:
      directory: of the trial.
    """
    text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
    (directory / 'spec.json').write_text(text + '\n')
    (directory / 'recipe.gin').write_text(self.recipe)
    (directory / 'overlay.gin').write_text(self.overlay)

  @classmethod
  def read(cls, directory: pathlib.Path) -> 'TrialSpec':
    """Reads the spec.json of a trial.

    Args:
      directory: of the trial.
    """
    return cls(**json.loads((directory / 'spec.json').read_text()))


def trial_seed(campaign_seed: int, trial: str) -> int:
  """Derives the seed of a trial.

  Args:
    campaign_seed: of the campaign.
    trial: its name.

  Returns:
    31 bits; another number for every trial.
  """
  digest = hashlib.sha256(f'{campaign_seed}|{trial}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1
