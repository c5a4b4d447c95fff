"""One round's evidence: fixed schema, from sealed results and released scores only. Nothing else
reaches the meta agent.

    {"schema": 2, "round": 2,
     "standing": {selector: value},                       the standing recipe's overlay
     "trials": [{"trial", "worker", "axis", "arm", "changes": {selector: value}, "status", "cause",
                 "dev": {"overall", "by_family", "other_verifier"} or null,        each {"correct",
                 "total", "accuracy", "low", "high"} "external": released score or null,
                 "external_interval": [low, high] or null, "external_by_family": {family:
                 {"accuracy", "total", "low", "high"}} or null, "external_rank": rank or null,
                 "cost": {"tokens", "steps", "flops", "seconds"}}],
     "failures": {cause: how many trials},
     "noise": {"seed_sd", "degrees_of_freedom", "replicates", "by_family": {family: sd}},
     "reliability": {"dev": {stream: reliability or null}},          a stream is a family or
     'overall' "verdicts": {stream: verdict},                                  as
     meta_agent.drift.reversal writes them; {} before they can be spoken "attribution": result of the
     control arm's test or null, "cost": {"tokens", "steps", "flops", "seconds"},                of
     the whole round "llm": {"tokens_in", "tokens_out", "money"}}                    what a language
     model took for the round's policy and its workers' choices

Intervals are 95% Wilson intervals over items. `seconds` are the workers' own, for people and
reports: no agent that is a function of the evidence may read them, so that a campaign repeats
exactly.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SCHEMA = 2
COSTS = ('tokens', 'steps', 'flops', 'seconds')


def seed_noise(groups: Sequence[Sequence[float]], floor: float) -> dict[str, float]:
  """Pooled standard deviation between seeds of the same recipe.

  Args:
    groups: overall dev accuracies, one group for each recipe that was trained on several seeds.
    floor: the least value ever assumed.

  Returns:
    seed_sd (floor applied), degrees_of_freedom, replicates (number of trials in groups of two or
    more).
  """
  replicated = [np.asarray(g, np.float64) for g in groups if len(g) > 1]
  dof = sum(len(g) - 1 for g in replicated)
  variance = sum(((g - g.mean()) ** 2).sum() for g in replicated) / dof if dof else 0.0
  return {
    'seed_sd': round(max(math.sqrt(variance), floor), 6),
    'degrees_of_freedom': dof,
    'replicates': sum(map(len, replicated)),
  }


def streams(score: Mapping[str, Any]) -> dict[str, dict]:
  """Stream -> proportion of a score summary: 'overall' and every family."""
  return {'overall': score['overall'], **score['by_family']}


def valued(dev: Mapping[str, Any], objectives: Mapping[str, float]) -> float:
  """Overall dev accuracy with each family's right answers counted as its objective values them;
  plain accuracy where nothing lost trust.
  """
  if not objectives:
    return dev['overall']['accuracy']
  return (
    sum(objectives.get(f, 1.0) * p['correct'] for f, p in dev['by_family'].items())
    / dev['overall']['total']
  )


def item_variance(proportion: Mapping[str, Any]) -> float:
  """Variance of an accuracy by the items' luck, with half an item added on each side so that it is
  never 0.
  """
  rate = (proportion['correct'] + 0.5) / (proportion['total'] + 1)
  return rate * (1 - rate) / proportion['total']


def reliability(scores: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
  """By stream, the share of the variance between a round's dev scores that is not the items' luck:
  1 - mean item variance / variance, in [0, 1]; None with fewer than three scores or none that
  differ."""
  found: dict[str, float | None] = {}
  for stream in streams(scores[0]) if scores else ():
    proportions = [streams(score)[stream] for score in scores]
    observed = (
      float(np.var([p['accuracy'] for p in proportions], ddof=1)) if len(proportions) > 2 else 0.0
    )
    found[stream] = (
      round(max(0.0, 1 - float(np.mean([item_variance(p) for p in proportions])) / observed), 4)
      if observed > 0
      else None
    )
  return found


def trial_row(
  *,
  trial: str,
  worker: int,
  axis: str,
  arm: str,
  changes: dict[str, Any],
  status: str,
  cause: str,
  dev: dict | None,
  external: float | None,
  external_interval: Sequence[float] | None,
  external_by_family: dict | None,
  external_rank: int | None,
  cost: dict[str, float],
) -> dict[str, Any]:
  """One trial's entry."""
  shown = (
    None
    if dev is None
    else {
      'overall': dev['overall'],
      'by_family': dev['by_family'],
      'other_verifier': dev['other_verifier'],
    }
  )
  return {
    'trial': trial,
    'worker': worker,
    'axis': axis,
    'arm': arm,
    'changes': changes,
    'status': status,
    'cause': cause,
    'dev': shown,
    'external': external,
    'external_interval': external_interval,
    'external_by_family': external_by_family,
    'external_rank': external_rank,
    'cost': cost,
  }


def collect(
  *,
  round_: int,
  standing: dict[str, Any],
  trials: Sequence[dict],
  noise: dict[str, Any],
  verdicts: dict[str, dict],
  attribution: dict | None,
  llm: dict[str, float],
) -> dict[str, Any]:
  """The round's evidence."""
  trials = list(trials)
  return {
    'schema': SCHEMA,
    'round': round_,
    'standing': standing,
    'trials': trials,
    'noise': noise,
    'failures': dict(
      collections.Counter(t['cause'] for t in trials if t['status'] in ('failed', 'refused'))
    ),
    'reliability': {'dev': reliability([t['dev'] for t in trials if t['dev'] is not None])},
    'verdicts': verdicts,
    'attribution': attribution,
    'cost': {name: round(sum(t['cost'][name] for t in trials), 1) for name in COSTS},
    'llm': llm,
  }
