"""Settings of `aevo pretrain`: gin's section `pretrain`."""

import dataclasses
from typing import Annotated

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, other_than


@configurable('pretrain')
@dataclasses.dataclass(frozen=True)
class Pretrain:
  """What a base is trained on, and for how long.

  Attributes:
    steps: optimizer steps of `rows` packed rows of `row_length` tokens.
    skill_share, chat_share: of the texts; the rest are plain puzzles, a worked_share of them with
      their solution, a steps_share of these with its intermediate results.
    given_weight: loss weight of the inputs of examples, which cannot be predicted.
    max_new_tokens: longest answer, when it is scored and in generation_config.json.
    checkpoint_every: steps between checkpoints. eval_items: dev items in the accuracies of
      pretrain.json.
  """

  steps: int
  seed: int = 0
  size: str = 'micro'
  rows: int = 32
  row_length: int = 128
  skill_share: float = 0.15
  chat_share: float = 0.005
  worked_share: float = 0.5
  steps_share: Annotated[float, ReadWhen(other_than('pretrain.worked_share', 0.0))] = 0.25
  given_weight: float = 0.1
  max_new_tokens: int = 56
  checkpoint_every: int = 1000
  eval_items: int = 1200
