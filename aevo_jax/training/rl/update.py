"""The pure functions of a step: statistics of a batch's tokens, and one accumulated update."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.params import Params, Structure
from aevo_jax.training.accumulate import accumulate_gradients
from aevo_jax.training.losses.distillation import distillation_loss, reverse_kl
from aevo_jax.training.losses.policy_gradient import PolicyGradient, policy_gradient_loss
from aevo_jax.training.losses.preference import Dpo, dpo_loss
from aevo_jax.training.losses.value import Critic, value_loss
from aevo_jax.training.recipe.rl_settings import Algorithm
from aevo_jax.training.rl import critic as critic_lib
from aevo_jax.training.rl import prefix
from aevo_jax.training.tokens.masked import WeightedSum
from aevo_jax.training.tokens.token_logprobs import per_token, stats_of_hidden
from aevo_jax.training.tokens.token_stats import TokenStats
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_update

TEACHER = 'teacher.'  # before the names of its parameters

Rows = Mapping[str, Any]  # arrays by name, the rows in front


class Teacher(NamedTuple):
  """The model that distillation learns from."""

  structure: Structure
  params: Params

  def frozen(self) -> Params:
    """Returns its parameters by the names under which they are among a student's frozen ones."""
    return {f'{TEACHER}{name}': value for name, value in self.params.items()}


class Diagnostics(NamedTuple):
  """What a loss tells beside its value; it adds up over rows.

  metrics: sums over tokens or pairs.
  token_stats: of all rows of the batch [rows, time] each, 0 in all rows but these; None where they
    are known from before.
  """

  metrics: dict[str, WeightedSum]
  token_stats: TokenStats | None = None


class Scalars(NamedTuple):
  """Figures of an update, in the order of the log.

  grad_snr: signal-to-noise ratio of the gradient; see `signal_to_noise`.
  """

  grad_norm: Float[Array, '']
  grad_snr: Float[Array, '']
  loss: Float[Array, '']


class Figures(NamedTuple):
  """What an update tells about itself."""

  scalars: Scalars
  diagnostics: Diagnostics


class Updated(NamedTuple):
  """What an update returns."""

  state: TrainState
  figures: Figures


Loss = Callable[[Params, Params, Rows], tuple[jax.Array, Diagnostics]]


# An update of a state: step(state, frozen, rows, learning_rate).
Step = Callable[[TrainState, Params, Rows, Any], Updated]


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """What the compiled functions of a run depend on, beside model and optimizer.

  Attributes:
    loss: of the policy gradient; its temperature and aggregation hold for all losses.
    critic: its coefficient and clip.
    preference: in place of the policy gradient, if there is one.
    microbatches: parts of an update.
    group_size: so many neighbouring rows stay in one microbatch.
    engine_reads: whether the engine reads the weights while they are updated, so that they are not
      donated.
    ema_decay: of the moving average of the weights; 0 has none.
    logits_chunk: positions of every row whose logits exist at a time; 0 is all.
  """

  loss: PolicyGradient = dataclasses.field(default_factory=PolicyGradient)
  critic: Critic = dataclasses.field(default_factory=Critic)
  preference: Dpo | None = None
  microbatches: int = 1
  group_size: int = 1
  engine_reads: bool = False
  ema_decay: float = 0.0
  logits_chunk: int = 0

  @classmethod
  def of(cls, algorithm: Algorithm, *, ema_decay: float, logits_chunk: int) -> 'StepConfig':
    """Selects what the compiled functions read.

    Args:
      algorithm: of the run.
      ema_decay: of the moving average.
      logits_chunk: positions whose logits exist at a time.

    Returns:
      Equal configs for algorithms with equal programs.
    """
    group_size = 1
    if algorithm.preference is not None:
      group_size = 2
    elif algorithm.rl.shared_prefix:
      group_size = algorithm.rollout.group_size
    return cls(
      loss=algorithm.loss,
      critic=algorithm.critic,
      preference=algorithm.preference,
      microbatches=algorithm.rl.microbatches,
      group_size=group_size,
      engine_reads=algorithm.rollout.asynchronous,
      ema_decay=ema_decay,
      logits_chunk=logits_chunk,
    )


class Programs(NamedTuple):
  """The jitted functions of a run.

  describe: (params, frozen, rows) -> what `describe` returns.
  step: of `make_step`; the state is donated unless the engine reads it.
  """

  describe: Callable[[Params, Params, Rows], tuple[TokenStats, jax.Array | None]]
  step: Step


@functools.lru_cache(maxsize=8)
def programs(
  structure: Structure,
  transformation: optax.GradientTransformation,
  config: StepConfig,
  teacher: Structure | None = None,
) -> Programs:
  """Jits the functions of a run, once for all runs that share them.

  Args:
    structure: the policy without arrays.
    transformation: the optimizer.
    config: what the loss and the step read.
    teacher: of distillation, without arrays, if there is one.

  Returns:
    The functions, which compile when they are first called.
  """
  temperature = config.loss.temperature
  if config.preference is not None:
    loss = make_preference_loss(structure, config)
  elif teacher is not None:
    loss = make_distillation_loss(structure, teacher, config)
  else:
    loss = make_loss(structure, config)
  described = functools.partial(
    describe, structure, temperature=temperature, chunk=config.logits_chunk
  )
  step = make_step(loss, transformation, config)
  donated = () if config.engine_reads else 0
  return Programs(jax.jit(described), jax.jit(step, donate_argnums=donated))


def describe(
  structure: Structure,
  params: Params,
  frozen: Params,
  batch: Rows,
  *,
  temperature: float,
  chunk: int,
) -> tuple[TokenStats, Float[Array, 'batch time'] | None]:
  """Computes the statistics of every masked token.

  Args:
    structure: the policy without arrays.
    params: trained parameters, with the critic's where there is one.
    frozen: the other parameters.
    batch: tokens, segment_ids and mask, [batch, time] each; it may be folded (`prefix.fold`).
    temperature: divides the logits.
    chunk: positions of every row whose logits exist at a time; 0 is all.

  Returns:
    Statistics, 0 where the mask is; and the value of the state before each token where there is a
    critic.
  """
  policy, critic = critic_lib.split(params)
  model = structure.bind({**frozen, **policy})
  hidden = _hidden(model, batch)

  stats = stats_of_hidden(model, hidden, batch['tokens'], batch['mask'], temperature, chunk)
  if not critic:
    return stats, None

  def value_of(hidden: jax.Array, tokens: jax.Array) -> jax.Array:
    del tokens
    return critic_lib.values(model, critic, hidden)

  return stats, per_token(value_of, hidden, batch['tokens'], batch['mask'])


def _hidden(model: Decoder, batch: Rows) -> jax.Array:
  if 'prompt_tokens' in batch:
    return prefix.hidden(model, batch)
  return model.hidden(batch['tokens'], batch['segment_ids'])[0]


def make_loss(structure: Structure, config: StepConfig) -> Loss:
  """Builds the loss of the policy gradient, with a critic's where there is one.

  Without old_logprobs, rows were generated by the very parameters of the loss, and `number` is the
  number of each row in the batch of `config.microbatches` parts. Then the diagnostics have the
  statistics of tokens.

  Args:
    structure: the policy without arrays.
    config: losses, microbatches and chunks of logits.

  Returns:
    loss(params, frozen, rows), a scalar and diagnostics that add up over rows.
  """

  def loss(params: Params, frozen: Params, rows: Rows) -> tuple[jax.Array, Diagnostics]:
    stats, values = describe(
      structure,
      params,
      frozen,
      rows,
      temperature=config.loss.temperature,
      chunk=config.logits_chunk,
    )
    token_stats = None
    if 'old_logprobs' not in rows:
      rows = {**rows, 'old_logprobs': jax.lax.stop_gradient(stats.logprobs)}
      token_stats = _in_batch(stats, rows['number'], config.microbatches)
    value, metrics = policy_gradient_loss(stats.logprobs, stats.entropy, rows, config.loss)
    if values is not None:
      value = value + config.critic.coefficient * value_loss(values, rows, config.critic)
    return value, Diagnostics(metrics, token_stats)

  return loss


def _in_batch(stats: TokenStats, number: jax.Array, parts: int) -> TokenStats:
  """Puts statistics of some rows at their numbers in a batch of `parts` such parts."""

  def place(x: jax.Array) -> jax.Array:
    batch = jnp.zeros((parts * x.shape[0], x.shape[1]), x.dtype)
    return batch.at[number].set(jax.lax.stop_gradient(x))

  return jax.tree.map(place, stats)


def make_preference_loss(structure: Structure, config: StepConfig) -> Loss:
  """Builds the loss of pairs (`losses.preference`).

  Args:
    structure: the policy without arrays.
    config: its preference, temperature and chunks of logits.

  Returns:
    As `make_loss`, of rows in which the two completions of a pair are neighbours.
  """
  preference = config.preference
  assert preference is not None

  def loss(params: Params, frozen: Params, rows: Rows) -> tuple[jax.Array, Diagnostics]:
    stats, _ = describe(
      structure,
      params,
      frozen,
      rows,
      temperature=config.loss.temperature,
      chunk=config.logits_chunk,
    )
    value, metrics = dpo_loss(stats.logprobs, rows, preference)
    return value, Diagnostics(metrics)

  return loss


def make_distillation_loss(
  structure: Structure, teacher_structure: Structure, config: StepConfig
) -> Loss:
  """Builds the loss of a teacher's distributions (`losses.distillation`).

  Args:
    structure: the student without arrays.
    teacher_structure: the teacher without arrays. Its parameters are among the frozen ones, as
      `Teacher.frozen` names them.
    config: its temperature and chunks of logits.

  Returns:
    As `make_loss`.
  """
  temperature = config.loss.temperature

  def loss(params: Params, frozen: Params, rows: Rows) -> tuple[jax.Array, Diagnostics]:
    student_params = {}
    teacher_params = {}
    for name, value in frozen.items():
      if name.startswith(TEACHER):
        teacher_params[name.removeprefix(TEACHER)] = value
      else:
        student_params[name] = value
    student = structure.bind({**student_params, **params})
    teacher = teacher_structure.bind(teacher_params)

    hidden = (_hidden(student, rows), jax.lax.stop_gradient(_hidden(teacher, rows)))
    heads = (None, None)
    if config.logits_chunk:
      heads = (student.head(hidden[0].dtype), teacher.head(hidden[1].dtype))

    def divergence(hidden: tuple[jax.Array, jax.Array], tokens: jax.Array) -> jax.Array:
      del tokens
      return reverse_kl(
        student.logits(hidden[0], heads[0]) / temperature,
        jax.lax.stop_gradient(teacher.logits(hidden[1], heads[1])) / temperature,
      )

    kl = per_token(divergence, hidden, rows['tokens'], rows['mask'], config.logits_chunk)
    value, metrics = distillation_loss(kl, rows)
    return value, Diagnostics(metrics)

  return loss


def make_step(loss: Loss, transformation: optax.GradientTransformation, config: StepConfig) -> Step:
  """Builds an update, to be jitted.

  Args:
    loss: a scalar and diagnostics that add up over rows.
    transformation: the optimizer.
    config: microbatches and moving average.

  Returns:
    step(state, frozen, rows, learning_rate).
  """
  update = make_update(transformation, ema_decay=config.ema_decay)

  def step(
    state: TrainState, frozen: Params, rows: Rows, learning_rate: Float[Array, '']
  ) -> Updated:
    def loss_of(params: Params, part: Rows) -> tuple[jax.Array, Diagnostics]:
      return loss(params, frozen, part)

    total = accumulate_gradients(
      loss_of, state.params, rows, config.microbatches, config.group_size
    )
    norm = optax.global_norm(total.grads)
    scalars = Scalars(
      grad_norm=norm,
      grad_snr=signal_to_noise(norm, total.squared_norms, config.microbatches),
      loss=total.loss,
    )
    figures = Figures(scalars, total.aux)
    return Updated(update(state, total.grads, learning_rate), figures)

  return step


def signal_to_noise(
  norm: jax.Array | float, squared_norms: jax.Array | float, parts: int
) -> Float[Array, '']:
  """Estimates the signal-to-noise ratio of a gradient from its microbatches.

  It is the root of |g|^2 without noise over the variance of g.

  Args:
    norm: of the sum of the parts' gradients.
    squared_norms: sum of the squared norms of the parts' gradients.
    parts: how many there are.

  Returns:
    The ratio, 0 where noise is all there is, NaN with one part.
  """
  if parts < 2:
    return jnp.asarray(jnp.nan)
  # Of the sum: parts^2 times the variance of a part over parts.
  variance = (parts * squared_norms - jnp.square(norm)) / (parts - 1)
  signal = jnp.maximum(jnp.square(norm) - variance, 0)
  return jnp.sqrt(signal / jnp.maximum(variance, 1e-30))
