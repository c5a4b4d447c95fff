"""Settings of reinforcement learning beside its loss and its advantages.

Those are in `losses.policy_gradient` and `losses.advantages`.
"""

import dataclasses
from typing import Annotated

from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, other_than, refuse_unread
from aevo_jax.config.inference import ENGINES
from aevo_jax.tasks import verify
from aevo_jax.training.losses.advantages import GROUPED, Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.losses.value import Critic

REWARDS = ('verifiable', 'format', 'length', 'overlong')
TASKS = ('puzzles', 'tally')
OVERLONG_BUFFER = 16  # if no other is bound

_GENERATES = ReadWhen(other_than('method.name', 'sft'))
_REWARDED = ReadWhen(one_of('method.name', 'rl', 'dpo', 'sft_then_rl', 'sft_then_dpo'))
_TALLY = ReadWhen(one_of('environment.name', 'tally'))
_ONE_TURN = ReadWhen(one_of('environment.name', 'puzzles'))
_Count = Annotated[int, Interval(ge=1, le=2**20)]
_Parts = Annotated[int, Interval(ge=1, le=1024)]
_Weight = Annotated[float, Interval(ge=-1000, le=1000)]
_Limit = Annotated[float, Interval(ge=0, le=1e9)]
_LimitOrNone = Annotated[float | None, Interval(ge=0, le=1e9)]


@configurable('rollout', _GENERATES)
@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a step generates.

  Attributes:
    prompts: of a step.
    group_size: completions of each prompt.
    max_new_tokens: of a completion; of each turn, where there are several.
    dynamic_sampling: leaves out groups whose rewards are all equal, and generates others in their
      place (DAPO, 2503.14476).
    max_batches: how often dynamic sampling generates, at most.
    asynchronous: while a step trains, the next one's rollouts are generated with the weights from
      before it.
    engine: 'jax', in this process, or 'vllm', a server (`config.inference.Vllm`). A server is for
      `aevo train` alone: a campaign's workers are confined.
  """

  prompts: _Count = 8
  group_size: _Count = 8
  max_new_tokens: _Count = 56
  dynamic_sampling: Annotated[bool, ReadWhen(other_than('method.name', 'distill'))] = False
  max_batches: Annotated[_Count, ReadWhen(one_of('rollout.dynamic_sampling', True))] = 4
  asynchronous: bool = False
  engine: Annotated[str, OneOf(ENGINES)] = 'jax'

  def __post_init__(self):
    refuse_unread(self, 'rollout')
    if self.dynamic_sampling and self.group_size < 2:
      raise ValueError(
        'rollout.dynamic_sampling leaves out groups of equal rewards, and a group of one '
        'is always equal; bind rollout.group_size >= 2'
      )


@configurable('environment', _GENERATES)
@dataclasses.dataclass(frozen=True)
class Task:
  """What rollouts answer.

  Attributes:
    name: 'puzzles', the training mixture or one's own tasks, one turn each; 'tally', conversations
      of several turns (`environment.Tally`).
    turns: of a conversation.
    decisions: turns that count.
  """

  name: Annotated[str, OneOf(TASKS)] = 'puzzles'
  turns: Annotated[int, _TALLY] = 4
  decisions: Annotated[int, _TALLY] = 2

  def __post_init__(self):
    refuse_unread(self, 'environment')
    if not 1 <= self.decisions <= self.turns <= 64:
      raise ValueError(
        f'environment.turns = {self.turns} and environment.decisions = {self.decisions}: '
        'of up to 64 turns, one at least decides'
      )


@configurable('reward', _REWARDED)
@dataclasses.dataclass(frozen=True)
class Reward:
  """Weights of the parts of a completion's reward; a part of weight 0 counts for nothing.

  Attributes:
    verifiable: of 1 if the task's verifier accepts the answer.
    format: of 1 for one boxed answer at the end.
    length: of the share of its tokens that a completion left unused.
    overlong: of DAPO's soft penalty, from 0 at max_new_tokens - overlong_buffer down to -1 at
      max_new_tokens (2503.14476, eq. 13).
    overlong_buffer: in tokens.
    verifier: as in objective.verifier.
  """

  verifiable: _Weight = 1.0
  format: Annotated[_Weight, _ONE_TURN] = 0.0
  length: Annotated[_Weight, _ONE_TURN] = 0.0
  overlong: Annotated[_Weight, _ONE_TURN] = 0.0
  overlong_buffer: Annotated[_Count, _ONE_TURN, ReadWhen(other_than('reward.overlong', 0.0))] = (
    OVERLONG_BUFFER
  )
  verifier: Annotated[str, _ONE_TURN, ReadWhen(other_than('reward.verifiable', 0.0))] = 'strict'

  def __post_init__(self):
    refuse_unread(self, 'reward')
    verify.named(self.verifier)
    if not any(self.weights().values()):
      names = [f'reward.{name}' for name in REWARDS]
      raise ValueError(
        'every part of the reward has weight 0, so there is nothing to learn from; bind '
        f'one of {", ".join(names)}'
      )

  def weights(self) -> dict[str, float]:
    """Returns the weight of each part by its name."""
    return {name: getattr(self, name) for name in REWARDS}


@configurable('rl', _GENERATES)
@dataclasses.dataclass(frozen=True)
class Rl:
  """How rollouts are trained on.

  Attributes:
    epochs: passes over a step's rollouts.
    minibatches: updates of a pass.
    microbatches: parts of an update, for their memory and for the gradient's signal-to-noise ratio.
    shared_prefix: a prompt goes through the model once for its whole group.
  """

  epochs: _Parts = 1
  minibatches: _Parts = 1
  microbatches: _Parts = 4
  shared_prefix: bool = True


@configurable('gates', _GENERATES)
@dataclasses.dataclass(frozen=True)
class Gates:
  """When a run stops by itself; 0 turns a rule off.

  Attributes:
    logprob_gap: largest difference between the sampler's and the trainer's log-probability of one
      token under the same weights, in nats.
    logprob_gap_quantile: the difference that one of 100 tokens may exceed.
    logprob_gap_mean: the mean difference of a step's tokens. Where none of the three is bound, they
      are what was measured for the dtype and the engine (`rl.gates.LIMITS`); where one is bound,
      those that are not are off.
    grad_norm: divergence: a gradient larger than this.
    reward_drop: reward collapse: mean reward of the last `window` steps below that of the best
      window by this much.
    entropy: entropy collapse: mean entropy of a window below this, in nats.
    kl: KL blow-up: mean KL from the reference, in nats. Without a reference it is from the policy
      before the step.
    window: in steps.
  """

  logprob_gap: _LimitOrNone = None
  logprob_gap_quantile: _LimitOrNone = None
  logprob_gap_mean: _LimitOrNone = None
  grad_norm: _Limit = 1000.0
  reward_drop: Annotated[_Limit, _REWARDED] = 0.0
  entropy: _Limit = 0.0
  kl: Annotated[_Limit, _REWARDED] = 10.0
  window: Annotated[
    int,
    Interval(ge=1, le=10**6),
    ReadWhen(
      other_than('gates.reward_drop', 0.0),
      other_than('gates.entropy', 0.0),
      other_than('gates.kl', 0.0),
    ),
  ] = 10


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """A combination of parts, checked as a whole.

  Attributes:
    loss: of the policy gradient.
    advantage: what rewards are compared with.
    rollout: what a step generates.
    reward: weights of its parts.
    critic: of advantage.kind = 'gae'.
    rl: epochs and batches.
    gates: when the run stops by itself.
    task: what rollouts answer.
    preference: if there is one, pairs of completions are trained on in place of advantages.
    distillation: if there is one, a teacher's distributions are trained on in their place.

  Raises:
    ValueError: parts that cannot go together, with the reason.
  """

  loss: PolicyGradient = dataclasses.field(default_factory=PolicyGradient)
  advantage: Advantage = dataclasses.field(default_factory=Advantage)
  rollout: Rollout = dataclasses.field(default_factory=Rollout)
  reward: Reward = dataclasses.field(default_factory=Reward)
  critic: Critic = dataclasses.field(default_factory=Critic)
  rl: Rl = dataclasses.field(default_factory=Rl)
  gates: Gates = dataclasses.field(default_factory=Gates)
  task: Task = dataclasses.field(default_factory=Task)
  preference: Dpo | None = None
  distillation: Distillation | None = None

  @property
  def needs_reference(self) -> bool:
    """Whether rollouts have log-probabilities under the policy's first weights."""
    return self.preference is not None or self.loss.kl != 'none'

  @property
  def updates_where_it_generates(self) -> bool:
    """Whether a step updates once, at the weights that generated.

    It then needs nothing of the old policy before, and the update's own forward pass gives the
    rollouts' log-probabilities.
    """
    return (
      self.rl.epochs * self.rl.minibatches == 1
      and not self.rollout.asynchronous
      and self.advantage.kind != 'gae'
      and self.preference is None
      and self.distillation is None
      and (self.loss.kl == 'none' or self.loss.kl_in == 'loss')
    )

  def __post_init__(self):
    if self.distillation is not None:
      self._check_distillation(self.distillation)
    self._check_advantage()
    self._check_bounds()
    if self.preference is not None:
      self._check_preference()
    self._check_reward()
    self._check_batches()

  def _check_distillation(self, distillation: Distillation) -> None:
    read = ('temperature', 'aggregation', 'constant_length')
    if self.loss != PolicyGradient(**{field: getattr(self.loss, field) for field in read}):
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
    if not distillation.teacher:
      raise ValueError(
        "method.name = 'distill' needs distillation.teacher, the directory of a checkpoint"
      )

  def _check_advantage(self) -> None:
    kind = self.advantage.kind
    group_size = self.rollout.group_size
    if kind in GROUPED and group_size < 2 and self.distillation is None:
      raise ValueError(
        f'advantage.kind = {kind!r} compares the completions of a prompt, and '
        f'rollout.group_size = {group_size}; bind it to 2 or more'
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

  def _check_bounds(self) -> None:
    """Checks that nothing grows without a bound: ratios far from 1, a small spread divided by."""
    updates = self.rl.epochs * self.rl.minibatches
    if self.loss.clip == 'none' and (updates > 1 or self.rollout.asynchronous):
      raise ValueError(
        'several epochs or minibatches, and asynchronous rollouts, move the policy away '
        "from the one that generated, and policy_gradient.clip = 'none' bounds that by "
        "nothing; bind policy_gradient.clip = 'ppo', or one epoch of one minibatch and "
        'rollout.asynchronous = False'
      )
    divides = self.advantage.kind == 'turn' and self.advantage.turn_std
    if divides and self.loss.kl != 'none' and self.loss.kl_in == 'reward':
      raise ValueError(
        "advantage.turn_std divides by the spread of a turn's returns, and where rewards "
        "are equal that is the KL penalty's alone: bind advantage.turn_std = False, or "
        "policy_gradient.kl_in = 'loss'"
      )

  def _check_preference(self) -> None:
    unread = []
    if self.loss != PolicyGradient(temperature=self.loss.temperature):
      unread.append('policy_gradient')
    if self.advantage != Advantage():
      unread.append('advantage')
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

  def _check_reward(self) -> None:
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

  def _check_batches(self) -> None:
    max_new_tokens = self.rollout.max_new_tokens
    constant_length = self.loss.constant_length
    if self.loss.aggregation == 'constant_length' and constant_length < max_new_tokens:
      raise ValueError(
        f'policy_gradient.constant_length = {constant_length} is what a '
        "completion's sum is divided by, and a completion may have "
        f'rollout.max_new_tokens = {max_new_tokens}; bind it to that'
      )
    prompts = self.rollout.prompts
    group_size = self.rollout.group_size
    rows_of_update = prompts * group_size // self.rl.minibatches
    if prompts % self.rl.minibatches or rows_of_update % self.rl.microbatches:
      raise ValueError(
        f'rollout.prompts = {prompts} of {group_size} completions do not divide '
        f'into rl.minibatches = {self.rl.minibatches} of whole groups and those into '
        f'rl.microbatches = {self.rl.microbatches}'
      )
    prompts_of_update = prompts // self.rl.minibatches
    if self.rl.shared_prefix and prompts_of_update % self.rl.microbatches:
      raise ValueError(
        f'rl.shared_prefix keeps groups whole, and {prompts_of_update} prompts of an update do not '
        f'divide into rl.microbatches = {self.rl.microbatches}; bind it to a divisor'
      )
