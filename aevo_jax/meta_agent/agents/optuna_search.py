"""Optuna's samplers as peers.

`Tpe` asks the tree-structured Parzen estimator of Bergstra et al. (2011), `Gp` a Gaussian process
with a Matern 5/2 kernel, a length scale for each parameter, and the logarithm of expected
improvement (Ament et al. 2023). Every round the sampler gets the dev score of every trial so far
and gives a batch: the estimator with a constant liar in place of the trials that are not over yet,
the process with samples of them. Optuna is the optional extra `search`; the process needs torch
besides, the extra `gp`.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import Parameter
from aevo_jax.config.search_space import prune
from aevo_jax.meta_agent.agent import Extra
from aevo_jax.meta_agent.agents.peers import Peer, Situation, overlay_of
from aevo_jax.meta_agent.encoding import levels
from aevo_jax.meta_agent.policy import ANCHOR, Assignment

# Trials before a sampler speaks; Optuna's ten are more than a round.
STARTUP = 8
# Samples for each worker, until it is a recipe that was not there before.
ATTEMPTS = 20


class MissingExtraError(ImportError):
  """Optuna, or what it needs, is not installed."""


class OptunaPeer(Peer):
  """Samples recipes from one of Optuna's samplers.

  Attributes:
    axis: name of its assignments.
    asked: whom they are asked of.
    clipped: whether a default out of a parameter's range counts as the nearest value in it. Else
      the sampler is told nothing of that parameter.
  """

  axis: ClassVar[str]
  asked: ClassVar[str]
  clipped: ClassVar[bool] = False

  def sampler(self, samplers: Any, seed: int) -> Any:
    """Makes the sampler.

    Args:
      samplers: Optuna's module of them.
      seed: below 2**32.

    Returns:
      An optuna sampler.
    """
    raise NotImplementedError

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Tells the sampler all scores and asks it for a batch; arguments as in `Peer`.

    Raises:
      MissingExtraError: the message says how to install it.
    """
    optuna = self._optuna()
    parameters = situation.constitution.space().parameters
    defaults = situation.defaults
    distributions = {p.selector: _distribution(optuna.distributions, p) for p in parameters}
    sampler = self.sampler(optuna.samplers, situation.seed % 2**32)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    seen: list[Mapping[str, Any]] = [{}]
    for evidence in situation.history:
      for trial in evidence.trials:
        overlay = overlay_of(trial, evidence)
        seen.append(overlay)
        if trial.dev is None:
          continue
        known = _known(parameters, {**defaults, **overlay}, clipped=self.clipped)
        study.add_trial(
          optuna.trial.create_trial(
            params=known,
            distributions={s: distributions[s] for s in known},
            value=trial.dev.overall.accuracy,
          )
        )
    batch: list[Assignment] = []
    for _ in range(ATTEMPTS * situation.constitution.budget.workers):
      if len(batch) == count:
        break
      suggested = study.ask(distributions).params
      overlay = _overlay(suggested, situation.constitution, defaults)
      if overlay not in seen:
        seen.append(overlay)
        batch.append(Assignment(self.axis, overlay, overlay, f'asked of the {self.asked}'))
    while len(batch) < count:
      reason = 'a further anchor: no new recipe was found'
      batch.append(Assignment(ANCHOR, {}, dict(situation.standing), reason))
    return batch

  def _optuna(self) -> Any:
    """Optuna, once all that the sampler needs is there."""
    for extra in self.extras:
      try:
        # Late: optional extras that only these agents need.
        importlib.import_module(extra.module)
      except ImportError as error:
        raise MissingExtraError(extra.missing(self.axis)) from error
    optuna = importlib.import_module('optuna')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Tpe(OptunaPeer):
  """Samples recipes from the tree-structured Parzen estimator."""

  extras = (Extra('optuna', 'search'),)
  axis = 'tpe'
  asked = 'tree-structured Parzen estimator'

  def sampler(self, samplers: Any, seed: int) -> Any:
    """Makes the sampler; arguments as in `OptunaPeer`."""
    return samplers.TPESampler(
      seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
    )


class TpeTested(Tpe):
  """The estimator under the promotion rule."""

  tested = True


class Gp(OptunaPeer):
  """Samples recipes from the Gaussian process."""

  extras = (Extra('optuna', 'search'), Extra('torch', 'gp', 'gp'))
  axis = 'gp'
  asked = 'Gaussian process'
  # The process knows the parameters that every trial has, and no others.
  clipped = True

  def sampler(self, samplers: Any, seed: int) -> Any:
    """Makes the sampler; arguments as in `OptunaPeer`."""
    return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)


class GpTested(Gp):
  """The process under the promotion rule."""

  tested = True


def _distribution(distributions: Any, parameter: Parameter) -> Any:
  """Optuna's name for a parameter's range; choices by their index, since they may be lists."""
  if levels(parameter):
    return distributions.CategoricalDistribution(tuple(range(len(levels(parameter)))))
  kind = distributions.IntDistribution
  if parameter.kind == 'float':
    kind = distributions.FloatDistribution
  return kind(parameter.low, parameter.high, log=parameter.scale == 'log')


def _known(
  parameters: Sequence[Parameter], values: Mapping[str, Any], *, clipped: bool
) -> dict[str, Any]:
  """A recipe as Optuna knows it; a default may be out of the range."""
  known = {}
  for parameter in parameters:
    value = values[parameter.selector]
    choices = levels(parameter)
    if choices:
      if value in choices or clipped:
        known[parameter.selector] = choices.index(value) if value in choices else 0
      continue
    if clipped:
      value = min(max(value, parameter.low), parameter.high)
    if parameter.low <= value <= parameter.high:
      known[parameter.selector] = value
  return known


def _overlay(
  suggested: Mapping[str, Any], constitution: Constitution, defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """The overlay of what Optuna suggests: bindings that differ from the defaults."""
  space = constitution.space()
  overlay = {}
  for parameter in space.parameters:
    value = suggested[parameter.selector]
    choices = levels(parameter)
    value = choices[value] if choices else _rounded(parameter, value)
    if value != defaults[parameter.selector]:
      overlay[parameter.selector] = value
  return prune(overlay, space, defaults)


def _rounded(parameter: Parameter, value: float) -> float:
  """Four digits, as other agents write numbers, within the range."""
  if parameter.kind == 'int':
    return value
  return min(max(float(f'{value:.4g}'), parameter.low), parameter.high)
