"""The recipe: everything that a trial may choose, one frozen dataclass per gin configurable.

The field names below are the selectors that people and agents bind, e.g. `optimizer.learning_rate =
1e-3`. Gin is read once, by `from_gin`; an agent's bindings become a recipe by
`Recipe.from_bindings`, without gin. The training code sees plain dataclasses.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from aevo_jax.config.configurables import configurable, construct_all, resolve
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, other_than, refuse_unread
from aevo_jax.config.statements import Binding
from aevo_jax.tasks.item import Difficulty
from aevo_jax.tasks.mixture import (
  AnswerShown,
  AnswerWithheld,
  FamilyWeights,
  Mixture,
  RareKindShare,
  SolutionStyle,
)
from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.losses.sft import Loss
from aevo_jax.training.recipe.rl_settings import Algorithm, Critic, Gates, Reward, Rl, Rollout, Task

SCHEDULES = ('constant', 'linear', 'cosine', 'wsd')
OPTIMIZERS = ('adamw', 'lion', 'muon', 'adafactor', 'sgd')
ADAPTATIONS = ('full', 'lora')
METHODS = ('sft', 'rl', 'dpo', 'distill', 'sft_then_rl', 'sft_then_dpo')
SUPERVISED = ('sft', 'sft_then_rl', 'sft_then_dpo')
SECOND = ('sft_then_rl', 'sft_then_dpo')
PACKINGS = ('first_fit', 'first_fit_decreasing')

Share = Annotated[float, Interval(ge=0, le=1)]
_SFT = ReadWhen(one_of('method.name', *SUPERVISED))
# At 1 the moments never move, and their bias correction divides by 0.
Decay = Annotated[float, Interval(ge=0, le=0.99999)]
LARGEST_FACTOR = 1e6  # of a group's learning rate and weight decay


@configurable('optimizer')
@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Optax update rule and learning-rate schedule.

  Attributes:
    name: of the update rule.
    learning_rate: the schedule's peak.
    schedule: after a linear warm-up over `warmup_fraction` of the steps: constant, linear or cosine
      to 0, or wsd (constant, then linear to 0 over the last `decay_fraction` of the steps).
    warmup_fraction: of the steps.
    decay_fraction: of the steps, read by wsd.
    weight_decay: decoupled, scaled by the learning rate.
    b1: decay of the first moment; the momentum of 'muon' and 'sgd'. 'adafactor' (1804.04235) does
      not read it.
    b2: decay of the second moment, which 'sgd' and 'adafactor' do not read.
    clip_norm: global gradient norm above which gradients are scaled down.
    groups: (pattern, factor of the learning rate, factor of the weight decay) of parameters whose
      whole name matches; where there are any, every parameter must match exactly one.
  """

  name: Annotated[str, OneOf(OPTIMIZERS)] = 'adamw'
  learning_rate: Annotated[
    float,
    Interval(ge=0, le=10),
    ReadWhen(one_of('method.learning_rate', 0.0), one_of('method.name', *SUPERVISED)),
  ] = 1e-3
  schedule: Annotated[str, OneOf(SCHEDULES)] = 'cosine'
  warmup_fraction: Share = 0.1
  decay_fraction: Annotated[Share, ReadWhen(one_of('optimizer.schedule', 'wsd'))] = 0.3
  weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01
  b1: Annotated[Decay, ReadWhen(other_than('optimizer.name', 'adafactor'))] = 0.9
  # Muon leaves to Adam what is no matrix, and all of an adapter is matrices.
  b2: Annotated[
    Decay,
    ReadWhen(other_than('optimizer.name', 'adafactor', 'sgd')),
    ReadWhen(other_than('optimizer.name', 'muon'), one_of('adaptation.method', 'full')),
  ] = 0.99
  clip_norm: Annotated[float, Gt(0)] = 1.0
  groups: tuple[tuple[str, float, float], ...] = ()

  def __post_init__(self):
    if len({pattern for pattern, _, _ in self.groups}) < len(self.groups):
      raise ValueError('optimizer.groups names a pattern twice; merge the two')
    for pattern, rate, decay in self.groups:
      if not 0 <= min(rate, decay) <= LARGEST_FACTOR:
        raise ValueError(
          f'optimizer.groups: factors of {pattern!r} must lie in [0, {LARGEST_FACTOR}], '
          f'got {min(rate, decay)}'
        )
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(
          f'optimizer.groups: {pattern!r} is no regular expression: {error}'
        ) from error


@configurable('train')
@dataclasses.dataclass(frozen=True)
class Train:
  """Length and batches of supervised fine-tuning.

  Attributes:
    steps: of the optimizer; 0 means as many as the trial's budget allows.
    batch_rows: packed rows of a step.
    row_length: tokens of a row.
    ema_decay: of the weights' moving average, which is what a trial hands in; 0 hands in the last
      weights.
    microbatches: parts into which a step's rows are cut, one after the other, for their memory; the
      gradient is the whole batch's.
    logits_chunk: positions of every row whose logits exist at a time, for large vocabularies; 0 is
      all.
    packing: of sequences into rows, see `data.pipeline.batches`; 'first_fit_decreasing' leaves less
      of them empty.
    packing_window: sequences that 'first_fit_decreasing' looks at together.
  """

  steps: Annotated[int, Ge(0), _SFT] = 0
  batch_rows: Annotated[int, Ge(1), _SFT] = 16
  row_length: Annotated[int, Ge(2), _SFT] = 128
  ema_decay: Annotated[float, Interval(ge=0, le=0.9999)] = 0.0
  microbatches: Annotated[int, Ge(1), _SFT] = 1
  logits_chunk: Annotated[int, Ge(0)] = 0
  packing: Annotated[str, OneOf(PACKINGS), _SFT] = 'first_fit'
  packing_window: Annotated[
    int, Ge(1), _SFT, ReadWhen(one_of('train.packing', 'first_fit_decreasing'))
  ] = 256

  def __post_init__(self):
    refuse_unread(self, 'train')
    if self.batch_rows % self.microbatches:
      raise ValueError(
        f'train.microbatches = {self.microbatches} does not divide train.batch_rows = '
        f'{self.batch_rows}'
      )

  def steps_within(self, token_budget: int, step_budget: int) -> int:
    """Computes the steps to run under a budget.

    Args:
      token_budget: of tokens, padding included.
      step_budget: of steps.

    Returns:
      `steps`, or as many as fit where it is 0.

    Raises:
      ValueError: the recipe asks for more than the budget.
    """
    allowed = min(token_budget // (self.batch_rows * self.row_length), step_budget)
    if self.steps > allowed or allowed < 1:
      raise ValueError(
        f'train.steps = {self.steps} with {self.batch_rows} rows of {self.row_length} '
        f'tokens exceeds the budget of {token_budget} tokens '
        f'and {step_budget} steps; at most {allowed} steps fit'
      )
    return self.steps or allowed


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What the step of supervised fine-tuning reads of a recipe, beside the optimizer.

  An option of the loss or of the step belongs into one of these sections, where it becomes part of
  the compiled program's key by itself (`program_key`).
  """

  loss: Loss = dataclasses.field(default_factory=Loss)
  train: Train = dataclasses.field(default_factory=Train)


@configurable('data', _SFT, ReadWhen(one_of('tasks.path', '')))
@dataclasses.dataclass(frozen=True)
class Data:
  """The items of supervised fine-tuning.

  Attributes:
    plain_share: share of items replayed in the base's plain format.
    demonstrations: different puzzles that supervised fine-tuning goes through, over and over; 0 is
      endlessly many. Reinforcement learning has prompts of its own, however few demonstrations
      there are.
  """

  plain_share: Share = 0.0
  demonstrations: Annotated[int, Interval(ge=0, le=2**30)] = 0


@configurable('adaptation')
@dataclasses.dataclass(frozen=True)
class Adaptation:
  """Full fine-tuning, or a LoRA adapter (see `lora`)."""

  method: Annotated[str, OneOf(ADAPTATIONS)] = 'full'


@configurable('lora', ReadWhen(one_of('adaptation.method', 'lora')))
@dataclasses.dataclass(frozen=True)
class Lora:
  """The shape of an adapter.

  Attributes:
    rank: of each adapted matrix's update.
    alpha: the update is scaled by alpha / rank.
    targets: a key of models.lora.TARGETS, or a regular expression over module names.
  """

  rank: Annotated[int, Ge(1)] = 16
  alpha: Annotated[float, Gt(0)] = 32.0
  targets: str = 'all'


@configurable('method')
@dataclasses.dataclass(frozen=True)
class Method:
  """The methods that the model is trained by, one after the other.

  Attributes:
    name: 'sft', supervised fine-tuning on worked solutions; 'rl', reinforcement learning on the
      same tasks (see `policy_gradient`, `advantage`, `rollout`, `reward`, `rl`); 'dpo', direct
      preference optimisation on pairs of the policy's own completions (see `dpo`, `rollout`,
      `reward`); 'distill', a teacher's distributions on the policy's own completions (see
      `distillation`, `rollout`); 'sft_then_rl', 'sft_then_dpo'.
    share: of a budget of tokens and steps that goes to the second method.
    learning_rate: of all methods but 'sft'; 0 is the optimizer's, whose other settings they share.
  """

  name: Annotated[str, OneOf(METHODS)] = 'sft'
  share: Annotated[float, Interval(ge=0.01, le=0.99), ReadWhen(one_of('method.name', *SECOND))] = (
    0.5
  )
  learning_rate: Annotated[
    float, Interval(ge=0, le=10), ReadWhen(other_than('method.name', 'sft'))
  ] = 0.0

  def __post_init__(self):
    refuse_unread(self, 'method')

  @property
  def supervised(self) -> bool:
    """Whether supervised fine-tuning comes first."""
    return self.name.startswith('sft')

  @property
  def by_preference(self) -> bool:
    """Whether DPO comes last."""
    return self.name.endswith('dpo')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything a trial may choose, one section per gin configurable of the same name."""

  method: Method = dataclasses.field(default_factory=Method)
  optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
  train: Train = dataclasses.field(default_factory=Train)
  loss: Loss = dataclasses.field(default_factory=Loss)
  data: Data = dataclasses.field(default_factory=Data)
  adaptation: Adaptation = dataclasses.field(default_factory=Adaptation)
  lora: Lora = dataclasses.field(default_factory=Lora)
  family_weight: FamilyWeights = dataclasses.field(default_factory=FamilyWeights)
  rare_share: RareKindShare = dataclasses.field(default_factory=RareKindShare)
  solution_style: SolutionStyle = dataclasses.field(default_factory=SolutionStyle)
  difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)
  answer_shown: AnswerShown = dataclasses.field(default_factory=AnswerShown)
  answer_withheld: AnswerWithheld = dataclasses.field(default_factory=AnswerWithheld)
  policy_gradient: PolicyGradient = dataclasses.field(default_factory=PolicyGradient)
  advantage: Advantage = dataclasses.field(default_factory=Advantage)
  rollout: Rollout = dataclasses.field(default_factory=Rollout)
  reward: Reward = dataclasses.field(default_factory=Reward)
  critic: Critic = dataclasses.field(default_factory=Critic)
  rl: Rl = dataclasses.field(default_factory=Rl)
  gates: Gates = dataclasses.field(default_factory=Gates)
  environment: Task = dataclasses.field(default_factory=Task)
  dpo: Dpo = dataclasses.field(default_factory=Dpo)
  distillation: Distillation = dataclasses.field(default_factory=Distillation)

  @classmethod
  def from_bindings(cls, bindings: Iterable[Binding]) -> 'Recipe':
    """Builds a recipe from checked bindings, as gin would from their text.

    Args:
      bindings: of the parameters that differ from their defaults, each bound once.

    Raises:
      LoadError: naming the selector, for a parameter that no recipe has, a value of the wrong
        type, and whatever a section refuses.
    """
    return cls(**construct_all(NAMES, bindings))

  def sections(self) -> dict[str, Any]:
    """Returns name -> dataclass of every section."""
    return {name: getattr(self, name) for name in NAMES}

  def values(self) -> dict[str, Any]:
    """Returns selector -> value of every parameter, sorted by selector."""
    values = {}
    for name, section in self.sections().items():
      for field in dataclasses.fields(section):
        values[f'{name}.{field.name}'] = getattr(section, field.name)
    return dict(sorted(values.items()))

  def train_config(self) -> TrainConfig:
    """Selects what the step of supervised fine-tuning reads."""
    return TrainConfig(self.loss, self.train)

  def algorithm(self) -> Algorithm | None:
    """Combines the sections of what follows supervised fine-tuning, or stands in its place.

    Returns:
      The algorithm; None where the only method is supervised fine-tuning.

    Raises:
      ValueError: parts that cannot go together.
    """
    if self.method.name == 'sft':
      return None
    return Algorithm(
      loss=self.policy_gradient,
      advantage=self.advantage,
      rollout=self.rollout,
      reward=self.reward,
      critic=self.critic,
      rl=self.rl,
      gates=self.gates,
      task=self.environment,
      preference=self.dpo if self.method.by_preference else None,
      distillation=self.distillation if self.method.name == 'distill' else None,
    )

  def second_optimizer(self) -> Optimizer:
    """Returns the optimizer of reinforcement learning, DPO or distillation."""
    if not self.method.learning_rate:
      return self.optimizer
    return dataclasses.replace(self.optimizer, learning_rate=self.method.learning_rate)

  def mixture(self, size: str) -> Mixture:
    """Combines the sections that say which puzzles are trained on.

    Args:
      size: of puzzles, 'micro' or 'standard'.
    """
    return Mixture(
      size,
      self.family_weight,
      self.rare_share,
      self.difficulty,
      self.answer_shown,
      self.answer_withheld,
    )


NAMES = tuple(field.name for field in dataclasses.fields(Recipe))


def from_gin() -> Recipe:
  """Builds the recipe of the loaded gin configuration.

  Raises:
    LoadError: nothing is loaded, a value has the wrong type, or a section refuses it.
  """
  return Recipe(**{name: resolve(name) for name in NAMES})
