"""What a recipe may choose of reinforcement learning beside its loss (`losses.policy_gradient`) and
its advantages (`losses.advantages`).
"""

import dataclasses
from typing import Annotated

from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, refuse_unread
from aevo_jax.config.inference import ENGINES
from aevo_jax.tasks import verify
from aevo_jax.training.losses.advantages import GROUPED, Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo

REWARDS = ('verifiable', 'format', 'length', 'overlong')
TASKS = ('puzzles', 'tally')

_Count = Annotated[int, Interval(ge=1, le=2**20)]
_Parts = Annotated[int, Interval(ge=1, le=1024)]
_Weight = Annotated[float, Interval(ge=-1000, le=1000)]
_Limit = Annotated[float, Interval(ge=0, le=1e9)]


@configurable('rollout')
@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a step generates.

  Attributes:
    prompts: a step. group_size: completions of each. max_new_tokens: of a completion (of each turn,
      where there are several).
    dynamic_sampling: groups whose rewards are all equal are left out and others generated in their
      place (DAPO, 2503.14476), at most max_batches times.
    asynchronous: while a step trains, the next one's rollouts are generated with the weights from
      before it.
    engine: 'jax', in this process, or 'vllm', a server (`config.inference.Vllm`; `aevo train`
      alone: a campaign's workers are confined).
  """

  prompts: _Count = 8
  group_size: _Count = 8
  max_new_tokens: _Count = 56
  dynamic_sampling: bool = False
  max_batches: _Count = 4
  asynchronous: bool = False
  engine: Annotated[str, OneOf(ENGINES)] = 'jax'

  def __post_init__(self):
    refuse_unread(self, 'rollout', {('max_batches',): ('dynamic_sampling', (True,))})
    if self.dynamic_sampling and self.group_size < 2:
      raise ValueError(
        'rollout.dynamic_sampling leaves out groups of equal rewards, and a group of one '
        'is always equal; bind rollout.group_size >= 2'
      )


@configurable('environment')
@dataclasses.dataclass(frozen=True)
class Task:
  """What rollouts are of. name: 'puzzles', the training mixture or one's own tasks, one turn each;
  'tally', conversations of several `turns` of which `decisions` count (`environment.Tally`)."""

  name: Annotated[str, OneOf(TASKS)] = 'puzzles'
  turns: int = 4
  decisions: int = 2

  def __post_init__(self):
    refuse_unread(self, 'environment', {('turns', 'decisions'): ('name', ('tally',))})
    if not 1 <= self.decisions <= self.turns <= 64:
      raise ValueError(
        f'environment.turns = {self.turns} and environment.decisions = {self.decisions}: '
        'of up to 64 turns, one at least decides'
      )


@configurable('reward')
@dataclasses.dataclass(frozen=True)
class Reward:
  """A completion's reward is the weighted sum of its parts; a part of weight 0 is measured and
  counts for nothing.

  Attributes:
    verifiable: 1 if the task's verifier accepts the answer. format: 1 for one boxed answer at the
      end. length: the share of its tokens that a completion left unused.
    overlong: DAPO's soft penalty, from 0 at max_new_tokens - overlong_buffer down to -1 at
      max_new_tokens (2503.14476, eq. 13). verifier: as in objective.verifier.
  """

  verifiable: _Weight = 1.0
  format: _Weight = 0.0
  length: _Weight = 0.0
  overlong: _Weight = 0.0
  overlong_buffer: _Count = 16
  verifier: str = 'strict'

  def __post_init__(self):
    verify.named(self.verifier)
    if not any(getattr(self, field) for field in REWARDS):
      raise ValueError(
        'every part of the reward has weight 0, so there is nothing to learn from; bind '
        f'one of {", ".join(f"reward.{r}" for r in REWARDS)}'
      )
    if not self.overlong and self.overlong_buffer != 16:
      raise ValueError(
        f'reward.overlong_buffer = {self.overlong_buffer} is read by nothing while '
        'reward.overlong = 0; bind reward.overlong too'
      )

  def weights(self) -> dict[str, float]:
    return {name: getattr(self, name) for name in REWARDS}


@configurable('critic')
@dataclasses.dataclass(frozen=True)
class Critic:
  """Of advantage.kind = 'gae': a head on the policy's hidden states, which it does not move.
  coefficient: of its loss. clip: of its values around the old ones; 0 does not.
  """

  coefficient: Annotated[float, Interval(ge=0, le=1000)] = 1.0
  clip: Annotated[float, Interval(ge=0, le=1000)] = 0.2


@configurable('rl')
@dataclasses.dataclass(frozen=True)
class Rl:
  """How rollouts are trained on. epochs: passes over a step's rollouts. minibatches: updates a
  pass. microbatches: parts of an update, for their memory and for the gradient's signal-to-noise
  ratio. shared_prefix: a prompt goes through the model once for its whole group."""

  epochs: _Parts = 1
  minibatches: _Parts = 1
  microbatches: _Parts = 4
  shared_prefix: bool = True


@configurable('gates')
@dataclasses.dataclass(frozen=True)
class Gates:
  """When a run stops by itself; 0 turns a rule off.

  Attributes:
    logprob_gap: largest difference between the sampler's and the trainer's log-probability of one
      token under the same weights, in nats.
    grad_norm: divergence: a gradient larger than this. reward_drop: reward collapse: mean reward of
      the last `window` steps below that of the best window by this much.
    entropy: entropy collapse: mean entropy of a window below this, in nats. kl: KL blow-up: mean KL
      from the reference (from the policy before the step, without a reference).
  """

  logprob_gap: _Limit = 0.05
  grad_norm: _Limit = 1000.0
  reward_drop: _Limit = 0.0
  entropy: _Limit = 0.0
  kl: _Limit = 10.0
  window: Annotated[int, Interval(ge=1, le=10**6)] = 10


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """A combination of parts, checked as a whole. With a `preference`, pairs of completions are
  trained on in place of advantages; with a `distillation`, a teacher's distributions are.

  Raises:
    ValueError: parts that cannot go together, with the reason.
  """

  loss: PolicyGradient = PolicyGradient()
  advantage: Advantage = Advantage()
  rollout: Rollout = Rollout()
  reward: Reward = Reward()
  critic: Critic = Critic()
  rl: Rl = Rl()
  gates: Gates = Gates()
  task: Task = Task()
  preference: Dpo | None = None
  distillation: Distillation | None = None

  @property
  def needs_reference(self) -> bool:
    return self.preference is not None or self.loss.kl != 'none'

  @property
  def updates_where_it_generates(self) -> bool:
    """Whether a step updates once, at the weights that generated, and needs nothing of the old
    policy before: then the update's own forward pass says what the rollouts' log-probabilities are.
    """
    return (
      self.rl.epochs * self.rl.minibatches == 1
      and not self.rollout.asynchronous
      and self.advantage.kind != 'gae'
      and self.preference is None
      and self.distillation is None
      and (self.loss.kl == 'none' or self.loss.kl_in == 'loss')
    )

  def _check_preference(self) -> None:
    unread = [
      name
      for name, value, default in (
        ('policy_gradient', self.loss, PolicyGradient(temperature=self.loss.temperature)),
        ('advantage', self.advantage, Advantage()),
      )
      if value != default
    ]
    if unread:
      raise ValueError(
        f'{" and ".join(unread)} (but for the temperature) are read by nothing while '
        "method.name = 'dpo'; leave them out"
      )
    if self.rl.minibatches > 1 or self.rollout.prompts % self.rl.microbatches:
      raise ValueError(
        "method.name = 'dpo' updates once with the pairs of a step: bind rl.minibatches "
        f'= 1, and rl.microbatches to a divisor of rollout.prompts = {self.rollout.prompts}'
      )

  def _check_distillation(self) -> None:
    read = {
      field: getattr(self.loss, field)
      for field in ('temperature', 'aggregation', 'constant_length')
    }
    if self.loss != PolicyGradient(**read):
      raise ValueError(
        f'of policy_gradient, only {", ".join(read)} are read while method.name = '
        "'distill'; leave the rest out"
      )
    if (
      self.advantage != Advantage()
      or self.critic != Critic()
      or self.reward != Reward()
      or self.rollout.dynamic_sampling
    ):
      raise ValueError(
        'advantage, critic, reward and rollout.dynamic_sampling are read by nothing '
        "while method.name = 'distill': the teacher judges every token; leave them out"
      )
    if self.gates.kl != Gates().kl or self.gates.reward_drop:
      raise ValueError(
        "gates.kl and gates.reward_drop watch what method.name = 'distill' has not: a "
        'reference, and rewards; leave them out'
      )
    if not self.distillation.teacher:
      raise ValueError(
        "method.name = 'distill' needs distillation.teacher, the directory of a checkpoint"
      )

  def __post_init__(self):
    if self.distillation is not None:
      self._check_distillation()
    kind, size, rows = (
      self.advantage.kind,
      self.rollout.group_size,
      self.rollout.prompts * self.rollout.group_size,
    )
    if kind in GROUPED and size < 2 and self.distillation is None:
      raise ValueError(
        f'advantage.kind = {kind!r} compares the completions of a prompt, and '
        f'rollout.group_size = {size}; bind it to 2 or more'
      )
    if kind in ('gae', 'turn') and self.loss.ratio != 'token':
      raise ValueError(
        f'advantage.kind = {kind!r} gives tokens of one completion different advantages, '
        f'and policy_gradient.ratio = {self.loss.ratio!r} gives them one ratio; '
        "bind policy_gradient.ratio = 'token'"
      )
    if kind != 'gae' and self.critic != Critic():
      raise ValueError(
        f'critic.* is read by nothing while advantage.kind = {kind!r}; leave it out, or '
        "bind advantage.kind = 'gae'"
      )
    if self.loss.clip == 'none' and (
      self.rl.epochs * self.rl.minibatches > 1 or self.rollout.asynchronous
    ):
      raise ValueError(
        'several epochs or minibatches, and asynchronous rollouts, move the policy away '
        "from the one that generated, and policy_gradient.clip = 'none' bounds that by "
        "nothing; bind policy_gradient.clip = 'ppo', or one epoch of one minibatch and "
        'rollout.asynchronous = False'
      )
    if (
      kind == 'turn'
      and self.advantage.turn_std
      and self.loss.kl != 'none'
      and self.loss.kl_in == 'reward'
    ):
      raise ValueError(
        "advantage.turn_std divides by the spread of a turn's returns, and where rewards "
        "are equal that is the KL penalty's alone: bind advantage.turn_std = False, or "
        "policy_gradient.kl_in = 'loss'"
      )
    if self.preference is not None:
      self._check_preference()
    if self.task.name == 'tally' and self.reward != Reward(verifiable=self.reward.verifiable):
      raise ValueError(
        "environment.name = 'tally' has one reward, of right decisions: the other parts "
        'of the reward, and reward.verifier, are read by nothing; leave them out'
      )
    if self.reward.overlong and self.reward.overlong_buffer > self.rollout.max_new_tokens:
      raise ValueError(
        f'reward.overlong_buffer = {self.reward.overlong_buffer} is longer than '
        f'rollout.max_new_tokens = {self.rollout.max_new_tokens}'
      )
    if (
      self.loss.aggregation == 'constant_length'
      and self.loss.constant_length < self.rollout.max_new_tokens
    ):
      raise ValueError(
        f'policy_gradient.constant_length = {self.loss.constant_length} is what a '
        "completion's sum is divided by, and a completion may have "
        'rollout.max_new_tokens = '
        f'{self.rollout.max_new_tokens}; bind it to that'
      )
    if (
      self.rollout.prompts % self.rl.minibatches
      or rows // self.rl.minibatches % self.rl.microbatches
    ):
      raise ValueError(
        f'rollout.prompts = {self.rollout.prompts} of {size} completions do not divide '
        f'into rl.minibatches = {self.rl.minibatches} of whole groups and those into '
        f'rl.microbatches = {self.rl.microbatches}'
      )
    if self.rl.shared_prefix and self.rollout.prompts // self.rl.minibatches % self.rl.microbatches:
      raise ValueError(
        'rl.shared_prefix keeps groups whole, and '
        f'{self.rollout.prompts // self.rl.minibatches} prompts of an update do not '
        'divide into rl.microbatches = '
        f'{self.rl.microbatches}; bind it to a divisor'
      )
