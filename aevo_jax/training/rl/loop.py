"""The loop of reinforcement learning: generate, check, weigh, update, log, save.

    rollouts     groups of completions from the engine, with the trainer's log-probabilities under
    the weights that generated; gated, and logged advantages   on the host, from rewards
    update       epochs x minibatches, each an accumulated gradient; where there is one only, its
    own forward pass gives the rollouts' log-probabilities (and so their gate and log follow it)
    rules        stop the run by name

A step whose rewards are all equal moves nothing and says so (no_signal). A stopped or killed run
continues from its last checkpoint; rollouts that were generated ahead are read back from their log,
so that the same run comes of it.
"""

import concurrent.futures
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aevo_jax.checkpoint import orbax_io
from aevo_jax.generation.protocol import GenerationEngine, Sampling
from aevo_jax.models.params import Params, Structure
from aevo_jax.training.losses import advantages as advantages_lib
from aevo_jax.training.losses.policy_gradient import (
  PolicyGradient,
  aggregation_weights,
  kl_estimate,
)
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.metrics import MetricsWriter
from aevo_jax.training.rl import gates, pairs, prefix, rewards, rollouts, update
from aevo_jax.training.rl.rollouts import Batch, Environment, Format
from aevo_jax.training.rl.settings import Algorithm, Critic
from aevo_jax.training.run_control import Profiler, RunControl
from aevo_jax.training.token_stats import TokenStats
from aevo_jax.training.train_state import TrainState

ROLLOUTS = 'rollouts'


class Trainer:
  """One run.

  Args:
    structure: the model without arrays. params: what is trained (a critic is added where there is
      one). frozen: the rest of the model's arrays.
    engine: generates; it is given the weights of every step. environment, form: what is asked, and
      how it becomes tokens.
    directory: of checkpoints, metrics and rollouts. reference: (trained, frozen) parameters of the
      reference; the run's first ones if not given. teacher: of distillation.
    name_of: a token's id as text, for messages.
  """

  def __init__(
    self,
    structure: Structure,
    params: Params,
    frozen: Params,
    transformation: optax.GradientTransformation,
    *,
    engine: GenerationEngine,
    environment: Environment,
    form: Format,
    algorithm: Algorithm,
    seed: int,
    directory: pathlib.Path,
    ema_decay: float = 0.0,
    logits_chunk: int = 0,
    reference: tuple[Params, Params] | None = None,
    teacher: tuple[Structure, Params] | None = None,
    name_of: Callable[[int], str] = str,
  ):
    self._a, self._engine, self._environment, self._form, self._seed, self._directory = (
      algorithm,
      engine,
      environment,
      form,
      seed,
      directory,
    )
    self.frozen, self._name_of = frozen, name_of
    if algorithm.needs_reference:
      self._reference = reference or (jax.tree.map(jnp.copy, params), frozen)
    if algorithm.advantage.kind == 'gae':
      params = params | update.critic_params(
        structure.bind({**frozen, **params}).config.hidden_size, seed
      )
    self._sampling = Sampling(
      temperature=algorithm.loss.temperature, max_new_tokens=algorithm.rollout.max_new_tokens
    )
    self._rows = algorithm.rollout.prompts * algorithm.rollout.group_size
    self._state = jax.jit(lambda p: TrainState.create(p, transformation, ema_decay))(params)
    self._teacher = (
      {}
      if teacher is None
      else {f'{update.TEACHER}{name}': value for name, value in teacher[1].items()}
    )
    self._describe, self._step = _programs(
      structure,
      transformation,
      algorithm.loss,
      algorithm.critic,
      algorithm.preference,
      teacher and teacher[0],
      ema_decay,
      algorithm.rl.microbatches,
      logits_chunk,
      algorithm.rollout.asynchronous,
      algorithm.rollout.group_size if algorithm.rl.shared_prefix else 1,
    )
    self._next_group = 0

  def train(
    self,
    learning_rates: Sequence[float],
    *,
    checkpoint_every: int = 0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    upkeep: RunControl = RunControl(),
    stop: Callable[[], bool] = lambda: False,
  ) -> TrainState:
    """One step for each learning rate; saves the last state. upkeep: see there. stop: asked after
    each step; True saves and returns.

    Raises:
      StoppedError: a gate or rule stopped the run (`gates`), which goes on from its last
        checkpoint. No checkpoint has the step that stopped it.
    """
    ahead, steps = self._a.rollout.asynchronous, len(learning_rates)
    start, rules = self._resume()
    with (
      MetricsWriter(self._directory) as metrics,
      Profiler(self._directory, upkeep) as profiler,
      concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
      pending = (
        pool.submit(rollouts.read, self._log(start))
        if ahead and start and self._log(start).with_suffix('.jsonl').exists()
        else None
      )
      for step in range(start, steps):
        profiler.before(step)
        started = time.perf_counter()
        batch = pending.result() if pending else self._rollouts(step, self._state.params, step)
        waited = time.perf_counter() - started
        pending = (
          pool.submit(self._rollouts, step + 1, self._state.params, step)
          if ahead and step + 1 < steps
          else None
        )
        scalars = self._update(batch, step, np.float32(learning_rates[step]))
        scalars |= {
          'staleness': step - batch.facts['version'],
          'seconds/waiting': waited,
          'seconds': time.perf_counter() - started,
        }
        metrics.write(step, scalars)
        rules.check(scalars)
        asked = stop()
        if step + 1 == steps or asked or (checkpoint_every and (step + 1) % checkpoint_every == 0):
          if pending is not None:
            concurrent.futures.wait(
              [pending]
              # so that the log has what a resumed run reads; what went wrong there is told after
              # this step was saved
            )
          self._save(step + 1, rules)
          orbax_io.prune(self._directory / 'checkpoints', upkeep.keep_checkpoints)
        if on_step is not None:
          on_step(step, scalars)
        if asked:
          break
    return self._state

  def __enter__(self) -> 'Trainer':
    return self

  def __exit__(self, *_) -> None:
    self._engine.close()

  def _log(self, step: int) -> pathlib.Path:
    return self._directory / ROLLOUTS / f'{step:06}'

  def _resume(self) -> tuple[int, gates.StopRules]:
    """The step to go on with, and the rules with what they have seen."""
    latest = orbax_io.latest_step(self._directory / 'checkpoints')
    if latest is None:
      return 0, gates.StopRules(self._a.gates)
    path = orbax_io.step_directory(self._directory / 'checkpoints', latest)
    self._state = jax.tree.map(jnp.asarray, orbax_io.restore(path, self._state))
    saved = json.loads(orbax_io.read_data_state(path))
    self._next_group = saved['next_group']
    return latest, gates.StopRules(self._a.gates, saved['seen'])

  def _save(self, step: int, rules: gates.StopRules) -> None:
    kept = json.dumps({'next_group': self._next_group, 'seen': rules.seen()}).encode()
    orbax_io.save(
      orbax_io.step_directory(self._directory / 'checkpoints', step),
      jax.tree.map(np.asarray, self._state),
      metadata={'step': step},
      data_state=kept,
    )

  def _rollouts(self, step: int, params: Params, version: int) -> Batch:
    """A step's batch, generated, and gated and logged (`_described`) unless the update does that."""
    a, started = self._a, time.perf_counter()
    policy, _ = update.split(params)
    self._engine.update({**self.frozen, **policy}, version)
    synced = time.perf_counter()
    kept, drawn, batches = [], [], 0
    while len(kept) < a.rollout.prompts and batches < (
      a.rollout.max_batches if a.rollout.dynamic_sampling else 1
    ):
      groups = range(self._next_group, self._next_group + a.rollout.prompts)
      self._next_group += a.rollout.prompts
      batches += 1
      samples = rollouts.generate(
        self._engine, self._environment, self._form, groups, a.rollout, self._sampling, self._seed
      )
      drawn += samples
      kept += (
        rollouts.with_signal(samples, a.reward)
        if a.rollout.dynamic_sampling
        else rollouts.grouped(samples)
      )
    samples = [s for group in kept[: a.rollout.prompts] for s in group]
    generated = time.perf_counter()
    arrays = rollouts.arrays(samples, self._rows)
    asked = {name: arrays[name] for name in ('tokens', 'segment_ids', 'mask')}
    stats, values = (
      (None, None) if a.updates_where_it_generates else self._said(params, self.frozen, asked)
    )
    if values is not None:
      arrays['old_values'] = values
    if a.needs_reference:
      arrays['ref_logprobs'] = self._said(*self._reference, asked)[0].logprobs
    described = time.perf_counter()
    new = sum(int(s.mask.sum()) for s in drawn)
    facts = {
      'version': version,
      'next_group': self._next_group,
      'reward': float(np.mean([rewards.total(s.parts, a.reward) for s in drawn])),
      'pass_rate': float(np.mean([s.parts.get('verifiable', 0.0) >= 1 for s in drawn])),
      'response_length': new / len(drawn),
      'groups_kept': len(kept[: a.rollout.prompts]),
      'groups_drawn': batches * a.rollout.prompts,
      'new_tokens': new,
      'tokens_per_s': new / (generated - synced),
      'seconds/sync': synced - started,
      'seconds/generate': generated - synced,
      'seconds/logprobs': described - generated,
    }
    batch = Batch(
      tuple(samples), arrays, facts | rewards.summary([s.parts for s in drawn], a.reward)
    )
    return batch if stats is None else self._described(batch, stats, step)

  def _described(self, batch: Batch, stats: TokenStats, step: int) -> Batch:
    """The batch with its log-probabilities under the weights that generated, [rows, t]; gated, and
    logged.

    Raises:
      StoppedError: they are not the sampler's.
    """
    a, arrays = self._a, batch.arrays | {'old_logprobs': stats.logprobs}
    gap = gates.logprob_gap(
      arrays['old_logprobs'],
      arrays['sampler_logprobs'],
      arrays['mask'],
      arrays['tokens'],
      a.gates,
      self._name_of,
    )
    facts = {
      'entropy_sampled': _masked_mean(stats.entropy, arrays['mask']),
      'logprob_gap_max': gap.largest,
      'logprob_gap_mean': gap.mean,
      'logprob_gap_kl': gap.kl,
    }
    if a.needs_reference:
      facts['kl_reference'] = _masked_mean(
        arrays['old_logprobs'] - arrays['ref_logprobs'], arrays['mask']
      )  # k1: of a few samples k3 has a heavy tail
    found = Batch(batch.samples, arrays, batch.facts | facts)
    rollouts.write(self._log(step), found)
    return found

  def _said(
    self, params: Params, frozen: Params, asked: dict[str, np.ndarray]
  ) -> tuple[TokenStats, np.ndarray | None]:
    """`update.describe` of rows of whole sequences, as numpy."""
    if not self._a.rl.shared_prefix:
      return jax.tree.map(np.asarray, self._describe(params, frozen, asked))
    return jax.tree.map(
      lambda x: prefix.unfold(np.asarray(x), asked),
      self._describe(params, frozen, prefix.fold(asked, self._a.rollout.group_size)),
    )

  def _update(self, batch: Batch, step: int, learning_rate: np.float32) -> dict[str, float]:
    """Trains on a batch; scalars of the step, with the batch's."""
    a, started, asked = (
      self._a,
      time.perf_counter(),
      {name: batch.arrays[name] for name in ('tokens', 'segment_ids', 'mask')},
    )
    if a.preference is not None:
      said = self._update_on_pairs(batch, learning_rate)
    elif a.distillation is not None:
      said = self._update_on(asked, step, learning_rate)[0]
    else:
      arrays, spread = trained_on(batch, a)
      said = {
        'advantage_variance': spread,
        'loss': 0.0,
        'grad_norm': 0.0,
        'no_signal': float(not spread),
      }
      generated_by, policy = self._state.params, None
      if spread:
        scalars, policy = self._update_on(arrays, step, learning_rate)
        said |= scalars
      if a.updates_where_it_generates:
        batch = self._described(
          batch, policy or self._said(generated_by, self.frozen, asked)[0], step
        )
    return (
      batch.facts
      | {'entropy': batch.facts['entropy_sampled']}
      | said
      | {'seconds/update': time.perf_counter() - started}
    )

  def _update_on(
    self, arrays: dict[str, np.ndarray], step: int, learning_rate: np.float32
  ) -> tuple[dict[str, float], TokenStats | None]:
    """Epochs of minibatches of whole groups: means of the updates' scalars and diagnostics, and the
    statistics of all rows where one update says them.
    """
    a, sums, scalars, rng = self._a, [], [], np.random.default_rng([self._seed, step])
    stats = None
    size, groups = a.rollout.group_size, a.rollout.prompts
    for _ in range(a.rl.epochs):
      for chosen in np.split(rng.permutation(groups), a.rl.minibatches):
        rows = (np.sort(chosen)[:, None] * size + np.arange(size)).reshape(-1)
        part = {name: value[rows] for name, value in arrays.items()}
        if not part['mask'].any():
          continue  # only where dynamic sampling found too few groups
        part['weights'] = aggregation_weights(part['mask'], a.loss)
        if a.updates_where_it_generates:
          part['number'] = np.arange(len(rows), dtype=np.int32)
        part = prefix.fold(part, size) if a.rl.shared_prefix else part
        self._state, numbers, diagnostics = self._step(
          self._state, self.frozen | self._teacher, part, learning_rate
        )
        if (whole := diagnostics.pop('said', None)) is not None:
          stats = jax.tree.map(
            lambda x: prefix.unfold(np.asarray(x), arrays) if a.rl.shared_prefix else np.asarray(x),
            whole,
          )
        scalars.append(numbers)
        sums.append(diagnostics)
    said = {name: float(np.mean([s[name] for s in scalars])) for name in scalars[0]}
    for name in sums[0]:
      said[name] = float(
        sum(s[name].total for s in sums) / max(float(sum(s[name].count for s in sums)), 1e-9)
      )
    return said, stats

  def _update_on_pairs(self, batch: Batch, learning_rate: np.float32) -> dict[str, float]:
    """Direct preference optimisation on a batch's pairs, once an epoch."""
    found = pairs.of_rollouts(batch.samples, self._a.reward)
    said = {'pairs': len(found), 'loss': 0.0, 'grad_norm': 0.0, 'no_signal': float(not found)}
    if not found:
      return said
    rows, weights = pairs.rows(found, self._a.rollout.prompts)
    part = {
      name: batch.arrays[name][rows] for name in ('tokens', 'segment_ids', 'mask', 'ref_logprobs')
    } | {'pair_weights': weights}
    part = prefix.fold(part, 2) if self._a.rl.shared_prefix else part
    for _ in range(self._a.rl.epochs):
      self._state, numbers, diagnostics = self._step(self._state, self.frozen, part, learning_rate)
    return (
      said
      | {name: float(value) for name, value in numbers.items()}
      | {name: float(s.mean()) for name, s in diagnostics.items()}
    )


@functools.lru_cache(maxsize=8)
def _programs(
  structure: Structure,
  transformation: optax.GradientTransformation,
  settings: PolicyGradient,
  critic: Critic,
  preference: Dpo | None,
  teacher: Structure | None,
  ema_decay: float,
  microbatches: int,
  chunk: int,
  engine_reads: bool,
  members: int,
) -> tuple[Callable, Callable]:
  """The jitted `update.describe` and step: once for all runs that share them. engine_reads: the
  weights while they are updated, so that they are not donated. members: neighbouring rows that stay
  together in a microbatch."""
  if preference is not None:
    loss = update.make_preference_loss(structure, preference, settings.temperature, chunk=chunk)
  elif teacher is not None:
    loss = update.make_distillation_loss(structure, teacher, settings.temperature, chunk=chunk)
  else:
    loss = update.make_loss(structure, settings, critic, chunk=chunk, microbatches=microbatches)
  step = update.make_step(
    loss,
    transformation,
    ema_decay=ema_decay,
    microbatches=microbatches,
    together=members if preference is None else 2,
  )
  return jax.jit(
    functools.partial(update.describe, structure, temperature=settings.temperature, chunk=chunk)
  ), jax.jit(step, donate_argnums=() if engine_reads else 0)


def trained_on(batch: Batch, algorithm: Algorithm) -> tuple[dict[str, np.ndarray], float]:
  """What the loss is given of a batch but for its weights, and the variance of advantages over
  tokens: 0 if rewards say nothing.

  Depends on the batch and the algorithm alone, so that a batch read from its log gives the same
  loss.
  """
  a, found = algorithm, batch.arrays
  mask, samples = found['mask'], batch.samples
  totals = np.array([rewards.total(s.parts, a.reward) for s in samples])
  groups = np.array([s.group for s in samples])
  signal = _signal(totals, groups, a.advantage.kind)
  penalty = np.zeros(mask.shape)
  if a.loss.kl != 'none' and a.loss.kl_in == 'reward':
    penalty = (
      a.loss.kl_coefficient
      * np.asarray(kl_estimate(a.loss.kl, found['old_logprobs'], found['ref_logprobs']))
      * mask
    )
  advantages, extra = np.zeros(mask.shape), {}
  if a.advantage.kind == 'gae':
    earned = -penalty
    for row, sample in enumerate(samples):
      for turn, parts in enumerate(sample.rewards):
        earned[row, np.flatnonzero(found['turns'][row] == turn)[-1]] += rewards.total(
          parts, a.reward
        )
    if signal:
      raw, extra['returns'] = advantages_lib.gae(
        earned, found['old_values'], mask, discount=a.advantage.discount, trace=a.advantage.trace
      )
      advantages = advantages_lib.whiten(raw, mask)
    extra = {'returns': np.zeros(mask.shape), 'old_values': found['old_values']} | extra
  elif not signal:
    pass
  elif a.advantage.kind == 'turn':
    by_turn = advantages_lib.of_turns(
      [
        [
          rewards.total(parts, a.reward) - penalty[row][found['turns'][row] == turn].sum()
          for turn, parts in enumerate(s.rewards)
        ]
        for row, s in enumerate(samples)
      ],
      groups,
      std=a.advantage.turn_std,
    )
    for row, own in enumerate(by_turn):
      drawn = found['turns'][row] >= 0
      advantages[row, drawn] = own[found['turns'][row][drawn]]
  else:
    by_row = advantages_lib.of_completions(
      totals - penalty.sum(axis=1)[: len(samples)], groups, a.advantage.kind
    )
    if (
      a.advantage.kind == 'group_std'
    ):  # where rewards are equal, the penalty's own spread would be blown up to 1
      by_row = by_row * np.array([np.ptp(totals[groups == g]) > 0 for g in groups])
    advantages[: len(samples)] = by_row[:, None] * mask[: len(samples)]
  chosen = advantages[mask > 0]
  kept = {
    name: found[name]
    for name in (
      'tokens',
      'segment_ids',
      'mask',
      'old_logprobs',
      'ref_logprobs',
      'sampler_logprobs',
    )
    if name in found
  }
  return kept | {
    name: np.asarray(value, np.float32)
    for name, value in (extra | {'advantages': advantages}).items()
  }, float(chosen.var()) if chosen.size else 0.0


def _signal(totals: np.ndarray, groups: np.ndarray, kind: str) -> bool:
  """Whether rewards differ where advantages compare them; a KL penalty alone is no reward."""
  if not len(totals):
    return False
  return (
    bool(np.ptp(totals))
    if kind in ('batch_mean', 'gae')
    else any(np.ptp(totals[groups == g]) for g in np.unique(groups))
  )


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> float:
  """NaN where nothing is masked."""
  return float((values * mask).sum() / mask.sum()) if mask.any() else math.nan
