"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) under the same budget, gate and
releases.

Every round the sampler is told the dev score of every trial so far and asked for a batch, with a
constant liar in place of the trials that are not over yet. The standing recipe is the one with the
best released external score, as in `random_agent`. Optuna is the optional extra `search`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import Parameter
from aevo_jax.config.search_space import prune
from aevo_jax.meta_agent.agents import random_search
from aevo_jax.meta_agent.encoding import levels
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

AXIS = 'tpe'
STARTUP = 8  # trials before the estimator speaks; Optuna's ten are more than a round
ATTEMPTS = 20  # times the sampler is asked for a recipe that was not there before


class MissingOptunaError(ImportError):
  """Optuna is not installed."""


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """As `statistical_agent.decide`.

  Raises:
    MissingOptunaError: the message says how to install it.
  """
  try:
    import optuna
  except ImportError as error:
    raise MissingOptunaError(
      "campaign.agent = 'tpe' needs optuna; install it with: pip install 'aevo-jax[search]'"
    ) from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  space = constitution.space()
  distributions = {p.selector: _distribution(optuna.distributions, p) for p in space.parameters}
  sampler = optuna.samplers.TPESampler(
    seed=seed % 2**32, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
  )
  study = optuna.create_study(direction='maximize', sampler=sampler)
  seen = [{}]
  for evidence in history:
    for trial in evidence['trials']:
      overlay = evidence['standing'] if trial['axis'] == ANCHOR else trial['changes']
      seen.append(overlay)
      if trial['dev'] is not None:
        known = {
          p.selector: place
          for p in space.parameters
          if (place := _place(p, {**defaults, **overlay})) is not None
        }
        study.add_trial(
          optuna.trial.create_trial(
            params=known,
            distributions={s: distributions[s] for s in known},
            value=trial['dev']['overall']['accuracy'],
          )
        )
  batch: list[Assignment] = []
  for _ in range(ATTEMPTS * constitution.budget.workers):
    if len(batch) == constitution.budget.workers - 1:
      break
    asked = study.ask(distributions).params
    drawn = {
      p.selector: levels(p)[asked[p.selector]] if levels(p) else _rounded(p, asked[p.selector])
      for p in space.parameters
    }
    overlay = prune({s: v for s, v in drawn.items() if v != defaults[s]}, space, defaults)
    if overlay not in seen:
      seen.append(overlay)
      batch.append(
        Assignment(AXIS, overlay, overlay, 'asked of the tree-structured Parzen estimator')
      )
  standing, reasons = random_search.best_released(history, policy)
  batch += [Assignment(ANCHOR, {}, dict(standing), 'a further anchor: no new recipe was found')] * (
    constitution.budget.workers - 1 - len(batch)
  )
  return random_search.policy_of(policy, standing, batch, reasons)


def _distribution(distributions: Any, parameter: Parameter) -> Any:
  """Optuna's name for a parameter's range; choices by their place, since they may be lists."""
  if levels(parameter):
    return distributions.CategoricalDistribution(tuple(range(len(levels(parameter)))))
  kind = (
    distributions.FloatDistribution if parameter.kind == 'float' else distributions.IntDistribution
  )
  return kind(parameter.low, parameter.high, log=parameter.scale == 'log')


def _place(parameter: Parameter, values: Mapping[str, Any]) -> Any:
  """A value as Optuna knows it; None where it is out of the range, as a default may be."""
  value = values[parameter.selector]
  if levels(parameter):
    return next((place for place, level in enumerate(levels(parameter)) if level == value), None)
  return value if parameter.low <= value <= parameter.high else None


def _rounded(parameter: Parameter, value: float) -> float:
  """Four digits, as other agents write numbers, within the range."""
  return (
    value
    if parameter.kind == 'int'
    else min(max(float(f'{value:.4g}'), parameter.low), parameter.high)
  )
