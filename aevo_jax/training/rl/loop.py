"""The loop of reinforcement learning: generate, check, weigh, update, log, save.

    rollouts     groups of completions from the engine, with the trainer's log-probabilities under
                 the weights that generated; gated, and logged
    advantages   on the host, from rewards
    update       epochs x minibatches, each an accumulated gradient. Where there is only one, its
                 forward pass gives the rollouts' log-probabilities, so gate and log follow it
    rules        stop the run by name

A step whose rewards are all equal moves nothing and says so (no_signal). A stopped or killed run
continues from its last checkpoint. Rollouts that were generated ahead are read back from their log,
so that the same run comes of it.
"""

import concurrent.futures
import json
import math
import pathlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from aevo_jax.checkpoint import orbax_io, resume
from aevo_jax.models.params import Params
from aevo_jax.training.losses.policy_gradient import aggregation_weights
from aevo_jax.training.metrics import MetricsWriter
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.recipe.recipe import Train
from aevo_jax.training.recipe.rl_settings import Algorithm
from aevo_jax.training.rl import critic as critic_lib
from aevo_jax.training.rl import gates, prefix
from aevo_jax.training.rl.rollouts import generation, pairs, rewards, rollout_log, rollouts
from aevo_jax.training.rl.rollouts.generation import Collected, RolloutSource
from aevo_jax.training.rl.rollouts.rollouts import Batch
from aevo_jax.training.rl.token_advantages import loss_inputs
from aevo_jax.training.rl.update import Figures, StepConfig, Teacher, programs
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.run_control import Profiler
from aevo_jax.training.tokens.token_stats import TokenStats
from aevo_jax.training.train_state import TrainState

ROLLOUTS = 'rollouts'
MODEL_INPUTS = ('tokens', 'segment_ids', 'mask')

_PLAIN_RUN = RunConfig()
_PLAIN_TRAIN = Train()


class Described(NamedTuple):
  """Statistics of whole rows on the host, [rows, time] each. values: where there is a critic."""

  stats: TokenStats
  values: np.ndarray | None


class Trained(NamedTuple):
  """What training on a batch gave.

  metrics: of the updates.
  stats: of all rows at the weights that generated, where the update computes them.
  """

  metrics: dict[str, float]
  stats: TokenStats | None


class Trainer:
  """One run. Use it as a context manager, which closes the engine.

  Args:
    model: the policy. A critic is added to its parameters where the algorithm has one, and they
      are the reference's too.
    transformation: the optimizer.
    algorithm: what a step does.
    source: engine, environment and format. The engine is given the weights of every step.
    seed: of requests and minibatches.
    directory: of checkpoints, metrics and rollouts.
    train: its moving average and chunks of logits.
    teacher: of distillation.

  Attributes:
    frozen: the policy's parameters that are not trained.
  """

  def __init__(
    self,
    model: PolicyModel,
    transformation: optax.GradientTransformation,
    algorithm: Algorithm,
    source: RolloutSource,
    *,
    seed: int,
    directory: pathlib.Path,
    train: Train = _PLAIN_TRAIN,
    teacher: Teacher | None = None,
  ):
    self._algorithm = algorithm
    self._source = source
    self._seed = seed
    self._directory = directory
    self._checkpoints = directory / 'checkpoints'
    self._row_count = algorithm.rollout.prompts * algorithm.rollout.group_size
    self._next_group = 0
    self.frozen = model.frozen
    self._teacher = {} if teacher is None else teacher.frozen()
    params = model.params
    config = model.structure.bind({**model.frozen, **params}).config
    dtypes = {config.compute_dtype, source.dtype or config.compute_dtype}
    coarser = 'float32' if dtypes == {'float32'} else 'bfloat16'
    self._gap_limits = gates.limits(algorithm.gates, coarser, algorithm.rollout.engine)
    if algorithm.needs_reference:
      self._reference = jax.tree.map(jnp.copy, params)
    if algorithm.advantage.kind == 'gae':
      params = params | critic_lib.init(config.hidden_size, seed)

    def first_state(params: Params) -> TrainState:
      return TrainState.create(params, transformation, train.ema_decay)

    self._state: TrainState = jax.jit(first_state)(params)
    self._programs = programs(
      model.structure,
      transformation,
      StepConfig.of(algorithm, ema_decay=train.ema_decay, logits_chunk=train.logits_chunk),
      None if teacher is None else teacher.structure,
    )

  def train(
    self,
    learning_rates: Sequence[float] | Float[np.ndarray, ' steps'],
    run: RunConfig = _PLAIN_RUN,
  ) -> TrainState:
    """Trains one step for each learning rate and saves the last state.

    Args:
      learning_rates: of each step; their number is the number of steps.
      run: checkpoints, profile and hooks. There is no mesh.

    Returns:
      The state after the last step.

    Raises:
      DamagedCheckpointError: the latest checkpoint cannot be read.
      StoppedError: a gate or rule stopped the run (`gates`), which goes on from its last
        checkpoint. No checkpoint has the step that stopped it.
    """
    steps = len(learning_rates)
    start, rules = self._resume()
    with (
      MetricsWriter(self._directory, start) as metrics,
      Profiler(self._directory, run.control) as profiler,
      concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
      pending = self._read_ahead(pool, start)
      for step in range(start, steps):
        profiler.before(step)
        started = time.perf_counter()
        if pending is None:
          batch = self._rollouts(step, self._state.params, step)
        else:
          batch = pending.result()
        waited = time.perf_counter() - started
        pending = None
        if self._algorithm.rollout.asynchronous and step + 1 < steps:
          pending = pool.submit(self._rollouts, step + 1, self._state.params, step)
        scalars = self._update(batch, step, np.float32(learning_rates[step]))
        scalars |= {
          'staleness': step - batch.facts['version'],
          'seconds/waiting': waited,
          'seconds': time.perf_counter() - started,
        }
        metrics.write(step, scalars)
        rules.check(scalars)
        stopping = run.stop()
        if step + 1 == steps or stopping or _is_due(step + 1, run.checkpoint_every):
          if pending is not None:
            # The log then has what a resumed run reads. An error there is raised by the next step,
            # after this one was saved.
            concurrent.futures.wait([pending])
          self._save(step + 1, rules)
          orbax_io.prune(self._checkpoints, run.control.keep_checkpoints)
        if run.on_step is not None:
          run.on_step(step, scalars)
        if stopping:
          break
    return self._state

  def __enter__(self) -> 'Trainer':
    return self

  def __exit__(self, *_) -> None:
    self._source.engine.close()

  def _log(self, step: int) -> pathlib.Path:
    return self._directory / ROLLOUTS / f'{step:06}'

  def _read_ahead(self, pool: concurrent.futures.Executor, step: int) -> 'Future[Batch] | None':
    """Reads the rollouts that a run before this one generated ahead, if it did."""
    if self._algorithm.rollout.asynchronous and step and rollout_log.exists(self._log(step)):
      return pool.submit(rollout_log.read, self._log(step))
    return None

  def _resume(self) -> tuple[int, gates.StopRules]:
    """Returns the step to go on with, and the rules with their memory."""
    latest = resume.restore_latest(self._checkpoints, self._state)
    if latest is None:
      return 0, gates.StopRules(self._algorithm.gates)
    self._state = jax.tree.map(jnp.asarray, latest.tree)
    saved = json.loads(latest.data_state)
    self._next_group = saved['next_group']
    return latest.step, gates.StopRules(self._algorithm.gates, saved['seen'])

  def _save(self, step: int, rules: gates.StopRules) -> None:
    position = {'next_group': self._next_group, 'seen': rules.memory()}
    orbax_io.save(
      orbax_io.step_directory(self._checkpoints, step),
      jax.tree.map(np.asarray, self._state),
      metadata={'step': step},
      data_state=json.dumps(position).encode(),
    )

  def _rollouts(self, step: int, params: Params, version: int) -> Batch:
    """Generates a step's batch; gates and logs it unless the update does that."""
    algorithm = self._algorithm
    started = time.perf_counter()
    policy = critic_lib.split(params).policy
    self._source.engine.update({**self.frozen, **policy}, version)
    synced = time.perf_counter()
    collected = generation.collect(self._source, algorithm, self._next_group, self._seed)
    self._next_group += collected.groups_generated
    generated = time.perf_counter()
    arrays = rollouts.arrays(collected.kept, self._row_count)
    inputs = _model_inputs(arrays)
    described = None
    if not algorithm.updates_where_it_generates:
      described = self._describe(params, inputs)
      if described.values is not None:
        arrays['old_values'] = described.values
    if algorithm.needs_reference:
      arrays['ref_logprobs'] = np.asarray(self._describe(self._reference, inputs).stats.logprobs)
    seconds = {
      'seconds/sync': synced - started,
      'seconds/generate': generated - synced,
      'seconds/logprobs': time.perf_counter() - generated,
    }
    facts = self._facts(collected, version, generated - synced) | seconds
    parts = [sample.parts for sample in collected.generated]
    facts |= rewards.summary(parts, algorithm.reward)
    batch = Batch(tuple(collected.kept), arrays, facts)
    if described is None:
      return batch
    return self._gate_and_log(batch, described.stats, step)

  def _facts(self, collected: Collected, version: int, seconds: float) -> dict[str, float]:
    """Returns the log's figures of a batch, generated by `version` in some seconds."""
    samples = collected.generated
    tokens = sum([int(s.mask.sum()) for s in samples])
    totals = [rewards.total(s.parts, self._algorithm.reward) for s in samples]
    passed = [s.parts.get('verifiable', 0.0) >= 1 for s in samples]
    return {
      'version': version,
      'next_group': self._next_group,
      'reward': float(np.mean(totals)),
      'pass_rate': float(np.mean(passed)),
      'response_length': tokens / len(samples),
      'groups_kept': collected.groups_kept,
      'groups_drawn': collected.groups_generated,
      'new_tokens': tokens,
      'tokens_per_s': tokens / seconds,
    }

  def _gate_and_log(self, batch: Batch, stats: TokenStats, step: int) -> Batch:
    """Adds the log-probabilities under the weights that generated, gates them, and logs the batch.

    Raises:
      StoppedError: they are not the sampler's.
    """
    old_logprobs = np.asarray(stats.logprobs)
    mask = batch.arrays['mask']
    gap = gates.logprob_gap(
      old_logprobs,
      batch.arrays['sampler_logprobs'],
      mask,
      batch.arrays['tokens'],
      self._gap_limits,
      self._source.form.name_of,
    )
    facts = {
      'entropy_sampled': _masked_mean(np.asarray(stats.entropy), mask),
      'logprob_gap_max': gap.largest,
      'logprob_gap_quantile': gap.quantile,
      'logprob_gap_mean': gap.mean,
      'logprob_gap_kl': gap.kl,
    }
    if self._algorithm.needs_reference:
      # k1: of a few samples, k3 has a heavy tail.
      k1 = old_logprobs - batch.arrays['ref_logprobs']
      facts['kl_reference'] = _masked_mean(k1, mask)
    arrays = batch.arrays | {'old_logprobs': old_logprobs}
    gated = Batch(batch.samples, arrays, batch.facts | facts)
    rollout_log.write(self._log(step), gated)
    return gated

  def _describe(self, params: Params, inputs: dict[str, np.ndarray]) -> Described:
    """Computes the statistics of rows of whole sequences."""
    if not self._algorithm.rl.shared_prefix:
      described = self._programs.describe(params, self.frozen, inputs)
      return Described(*jax.tree.map(np.asarray, described))
    folded = prefix.fold(inputs, self._algorithm.rollout.group_size)
    described = self._programs.describe(params, self.frozen, folded)
    return Described(*_unfold(described, inputs))

  def _update(self, batch: Batch, step: int, learning_rate: np.float32) -> dict[str, float]:
    """Trains on a batch; returns the scalars of the step, with the batch's."""
    started = time.perf_counter()
    if self._algorithm.preference is not None:
      metrics = self._update_on_pairs(batch, learning_rate)
    elif self._algorithm.distillation is not None:
      metrics = self._update_on(_model_inputs(batch.arrays), step, learning_rate).metrics
    else:
      generated_by = self._state.params
      trained = self._update_on_rewards(batch, step, learning_rate)
      metrics = trained.metrics
      if self._algorithm.updates_where_it_generates:
        stats = trained.stats
        if stats is None:
          stats = self._describe(generated_by, _model_inputs(batch.arrays)).stats
        batch = self._gate_and_log(batch, stats, step)
    return (
      batch.facts
      | {'entropy': batch.facts['entropy_sampled']}
      | metrics
      | {'seconds/update': time.perf_counter() - started}
    )

  def _update_on_rewards(self, batch: Batch, step: int, learning_rate: np.float32) -> Trained:
    """Trains on the advantages of a batch; where rewards say nothing, nothing moves."""
    inputs = loss_inputs(batch, self._algorithm)
    metrics = {
      'advantage_variance': inputs.variance,
      'loss': 0.0,
      'grad_norm': 0.0,
      'no_signal': float(not inputs.variance),
    }
    if not inputs.variance:
      return Trained(metrics, None)
    trained = self._update_on(inputs.arrays, step, learning_rate)
    return Trained(metrics | trained.metrics, trained.stats)

  def _update_on(
    self, arrays: dict[str, np.ndarray], step: int, learning_rate: np.float32
  ) -> Trained:
    """Trains on epochs of minibatches of whole groups; returns means over the updates."""
    rl = self._algorithm.rl
    group_size = self._algorithm.rollout.group_size
    rng = np.random.default_rng([self._seed, step])
    updates: list[Figures] = []
    for _ in range(rl.epochs):
      order = rng.permutation(self._algorithm.rollout.prompts)
      for groups in np.split(order, rl.minibatches):
        rows = (np.sort(groups)[:, None] * group_size + np.arange(group_size)).reshape(-1)
        part = {name: values[rows] for name, values in arrays.items()}
        # A minibatch is empty only where dynamic sampling found too few groups.
        if part['mask'].any():
          updates.append(self._step_on(part, learning_rate))
    stats = updates[-1].diagnostics.token_stats
    if stats is not None:
      if rl.shared_prefix:
        stats = _unfold(stats, arrays)
      stats = jax.tree.map(np.asarray, stats)
    return Trained(_means(updates), stats)

  def _step_on(self, part: dict[str, np.ndarray], learning_rate: np.float32) -> Figures:
    """Updates the state once."""
    part['weights'] = aggregation_weights(part['mask'], self._algorithm.loss)
    if self._algorithm.updates_where_it_generates:
      part['number'] = np.arange(len(part['mask']), dtype=np.int32)
    if self._algorithm.rl.shared_prefix:
      part = prefix.fold(part, self._algorithm.rollout.group_size)
    updated = self._programs.step(self._state, self.frozen | self._teacher, part, learning_rate)
    self._state = updated.state
    return updated.figures

  def _update_on_pairs(self, batch: Batch, learning_rate: np.float32) -> dict[str, float]:
    """Trains on a batch's pairs by direct preference optimisation, once an epoch.

    The metrics are those of the last epoch.
    """
    chosen = pairs.of_rollouts(batch.samples, self._algorithm.reward)
    metrics = {
      'pairs': len(chosen),
      'loss': 0.0,
      'grad_norm': 0.0,
      'no_signal': float(not chosen),
    }
    if not chosen:
      return metrics
    pair_rows = pairs.rows(chosen, self._algorithm.rollout.prompts)
    part = {}
    for name in (*MODEL_INPUTS, 'ref_logprobs'):
      part[name] = batch.arrays[name][pair_rows.rows]
    part['pair_weights'] = pair_rows.weights
    if self._algorithm.rl.shared_prefix:
      part = prefix.fold(part, 2)
    for _ in range(self._algorithm.rl.epochs):
      updated = self._programs.step(self._state, self.frozen, part, learning_rate)
      self._state = updated.state
      for name, value in updated.figures.scalars._asdict().items():
        metrics[name] = float(value)
      for name, total in updated.figures.diagnostics.metrics.items():
        metrics[name] = float(total.mean())
    return metrics


def _is_due(step: int, every: int) -> bool:
  """Whether a checkpoint is saved after `step` steps; never where `every` is 0."""
  return every > 0 and step % every == 0


def _model_inputs(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: arrays[name] for name in MODEL_INPUTS}


def _unfold(tree, arrays: dict[str, np.ndarray]):
  """Unfolds every array of a tree to the positions of `arrays`."""
  return jax.tree.map(lambda x: prefix.unfold(np.asarray(x), arrays), tree)


def _means(updates: Sequence[Figures]) -> dict[str, float]:
  """Averages scalars over updates, and diagnostics over what they count."""
  metrics = {}
  for name in updates[0].scalars._fields:
    metrics[name] = float(np.mean([getattr(u.scalars, name) for u in updates]))
  for name in updates[0].diagnostics.metrics:
    sums = [u.diagnostics.metrics[name] for u in updates]
    count = max(float(sum([s.count for s in sums])), 1e-9)
    metrics[name] = float(sum([s.total for s in sums]) / count)
  return metrics


def _masked_mean(
  values: Float[np.ndarray, 'rows time'], mask: Float[np.ndarray, 'rows time']
) -> float:
  """Returns NaN where nothing is masked."""
  if not mask.any():
    return math.nan
  return float((values * mask).sum() / mask.sum())
