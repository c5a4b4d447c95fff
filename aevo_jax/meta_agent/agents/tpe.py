"""Optuna's tree-structured Parzen estimator as a peer.

The estimator is that of Bergstra et al. (2011). Budget, gate and releases are those of the other
agents. Every round the sampler gets the dev score of every trial so far and gives a batch, with a
constant liar in place of the trials that are not over yet. The standing recipe is the one with the
best released external score, as in `random_search`. Optuna is the optional extra `search`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import Parameter
from aevo_jax.config.search_space import prune
from aevo_jax.meta_agent.agent import Agent, Extra
from aevo_jax.meta_agent.agents.random_search import best_released, overlay_of, policy_of
from aevo_jax.meta_agent.encoding import levels
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

AXIS = 'tpe'
# Trials before the estimator speaks; Optuna's ten are more than a round.
STARTUP = 8
# Samples for each worker, until it is a recipe that was not there before.
ATTEMPTS = 20


class MissingOptunaError(ImportError):
  """Optuna is not installed."""


class Tpe(Agent):
  """Samples recipes from the estimator."""

  changes_are_whole = True
  extra = Extra('optuna', 'search')

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Tells the sampler all scores and asks it for a batch; arguments as in `Agent`.

    Raises:
      MissingOptunaError: the message says how to install it.
    """
    try:
      # Late: an optional extra that only this agent needs.
      import optuna  # noqa: PLC0415
    except ImportError as error:
      raise MissingOptunaError(self.extra.missing(AXIS)) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parameters = constitution.space().parameters
    distributions = {p.selector: _distribution(optuna.distributions, p) for p in parameters}
    sampler = optuna.samplers.TPESampler(
      seed=seed % 2**32, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
    )
    study = optuna.create_study(direction='maximize', sampler=sampler)
    seen: list[Mapping[str, Any]] = [{}]
    for evidence in history:
      for trial in evidence.trials:
        overlay = overlay_of(trial, evidence)
        seen.append(overlay)
        if trial.dev is not None:
          known = _known(parameters, {**defaults, **overlay})
          study.add_trial(
            optuna.trial.create_trial(
              params=known,
              distributions={s: distributions[s] for s in known},
              value=trial.dev.overall.accuracy,
            )
          )
    count = constitution.budget.workers - 1
    batch: list[Assignment] = []
    for _ in range(ATTEMPTS * constitution.budget.workers):
      if len(batch) == count:
        break
      suggested = study.ask(distributions).params
      overlay = _overlay(suggested, constitution, defaults)
      if overlay not in seen:
        seen.append(overlay)
        reason = 'asked of the tree-structured Parzen estimator'
        batch.append(Assignment(AXIS, overlay, overlay, reason))
    best = best_released(history, policy)
    while len(batch) < count:
      reason = 'a further anchor: no new recipe was found'
      batch.append(Assignment(ANCHOR, {}, dict(best.standing), reason))
    return policy_of(policy, best.standing, batch, best.reasons)


def _distribution(distributions: Any, parameter: Parameter) -> Any:
  """Optuna's name for a parameter's range; choices by their index, since they may be lists."""
  if levels(parameter):
    return distributions.CategoricalDistribution(tuple(range(len(levels(parameter)))))
  kind = distributions.IntDistribution
  if parameter.kind == 'float':
    kind = distributions.FloatDistribution
  return kind(parameter.low, parameter.high, log=parameter.scale == 'log')


def _known(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
  """A recipe as Optuna knows it, without values out of the range, which a default may have."""
  known = {}
  for parameter in parameters:
    value = values[parameter.selector]
    choices = levels(parameter)
    if not choices:
      if parameter.low <= value <= parameter.high:
        known[parameter.selector] = value
    elif value in choices:
      known[parameter.selector] = choices.index(value)
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
