"""How often an agent finds a gain on a response surface fitted to real trials: whole campaigns in half a second, for comparing agents and their priors.

  .venv/bin/python benchmarks/fitted_campaigns.py collect RUN ...     adds the dev scores of finished runs to benchmarks/results/trials.json
  .venv/bin/python benchmarks/fitted_campaigns.py simulate            60 campaigns of each agent

The surface: the statistical agent's own model (`meta_agent.effects`), fitted to all collected trials. Every campaign plays on a draw from its posterior, shrunk
to the mean by `DRAW`. That flatters the agent, and the trials are of the puzzles, base and constitution that campaign_gain.py uses, so priors that were
chosen with this script have seen that surface. What an agent is worth on real training is measured by campaign_gain.py.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign import decisions
from aevo_jax.campaign.gate import default_values
from aevo_jax.campaign.state import CampaignState, TrialState, fold
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import parse_statements
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import effects, policy as policy_lib, random_agent, statistical_agent
from aevo_jax.meta_agent.statistical_agent import prune
from aevo_jax.runtime import single_threaded_blas

TRIALS = pathlib.Path(__file__).parent / 'results' / 'trials.json'
AGENTS = {'statistical': statistical_agent.decide, 'random': random_agent.decide}
DRAW = 0.7
SEED_SD = 0.085  # of a family's log-odds


def collect(runs: list[pathlib.Path]) -> None:
  """Adds every dev score: {'run', 'trial', 'overlay', 'correct': by family, 'total': by family}."""
  rows = json.loads(TRIALS.read_text()) if TRIALS.exists() else []
  known = {(row['run'], row['trial']) for row in rows}
  for run in runs:
    for name, trial in fold(read(run / 'ledger.jsonl', strict=False)).trials.items():
      if trial.dev is not None and (run.name, name) not in known:
        rows.append({'run': run.name, 'trial': name, 'overlay': {b.selector: b.value for b in parse_statements(trial.overlay)},
                     **{count: {f: s[count] for f, s in trial.dev['by_family'].items()} for count in ('correct', 'total')}})
  TRIALS.write_text('[\n' + ',\n'.join(json.dumps(row, sort_keys=True) for row in rows) + '\n]\n')
  print(f'{len(rows)} trials in {TRIALS.name}')


def fitted(space, defaults: dict, rows: list[dict]) -> effects.Effects:
  """The posterior given all trials, each compared with all trials of the starting recipe."""
  overlays = [prune({k: v for k, v in row['overlay'].items() if k in defaults}, space, defaults) for row in rows]
  counts = [{f: effects.Count(row['correct'][f], row['total'][f]) for f in sorted(row['correct'])} for row in rows]
  starting = [c for overlay, c in zip(overlays, counts) if not overlay]
  pooled = {f: effects.Count(sum(c[f].correct for c in starting), sum(c[f].total for c in starting)) for f in counts[0]}
  return effects.fit(space, defaults, [effects.Trial({}, o, c, pooled, len(starting)) for o, c in zip(overlays, counts) if o], pooled)


@dataclasses.dataclass(frozen=True)
class World:
  """One draw of the surface: weights [F, f] of the families' log-odds."""

  surface: effects.Effects
  weights: np.ndarray

  @classmethod
  def draw(cls, surface: effects.Effects, seed: int) -> 'World':
    return cls(surface, surface.means + DRAW * (surface.draw(np.random.default_rng([77, seed])) - surface.means))

  def accuracies(self, overlay: dict, luck: np.ndarray | float = 0.0) -> np.ndarray:
    """[F] of a recipe; `luck` is added to the log-odds."""
    surface = self.surface
    step = surface.difference({}, prune(overlay, surface.space, surface.defaults))
    return 1 / (1 + np.exp(-(surface.levels + self.weights @ step + luck)))


def play(state: CampaignState, policy, world: World, families: Sequence[str], rng: np.random.Generator, constitution) -> dict:
  """One round, and its evidence."""
  external, dev, items = {}, constitution.dev_set.items // len(families), constitution.external_set.items
  score = lambda correct, total: {'correct': int(correct), 'total': total, 'accuracy': correct / total, 'low': correct / total, 'high': correct / total}
  for worker, assignment in enumerate(policy.assignments):
    name = f'r{policy.round}w{worker}'
    trial = state.trials[name] = TrialState(name, policy.round, worker, assignment.axis, policy.overlay(worker), 0, status='sealed')
    truth = world.accuracies(assignment.overlay, SEED_SD * rng.standard_normal(len(families)))
    correct = rng.binomial(dev, truth)
    whole = score(correct.sum(), dev * len(correct))
    trial.dev = {'overall': whole, 'by_family': {f: score(c, dev) for f, c in zip(families, correct)}, 'other_verifier': whole}
    external[name], trial.external_scored = rng.binomial(items // len(truth), truth).sum() / items, True
  for name in decisions.to_release(state.of_round(policy.round), constitution.release.per_round):
    state.trials[name].released = round(external[name], constitution.release.decimals)
  state.ranks[policy.round] = {name: rank for rank, name in enumerate(sorted(external, key=external.get))}
  return json.loads(decisions.evidence_text(decisions.round_evidence(state, policy.round, policy, constitution)))


def simulate(count: int) -> None:
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  constitution, defaults = constitution_lib.from_gin(), default_values((layout.root_file('substrate') / 'recipe.gin').read_text())
  rows = json.loads(TRIALS.read_text())
  surface, families = fitted(constitution.space(), defaults, rows), sorted(rows[0]['correct'])
  print(f'surface of {len(rows)} trials, {count} campaigns for each agent')
  for agent, decide in AGENTS.items():
    gains = []
    for seed in range(count):
      world, rng, state, history = World.draw(surface, seed), np.random.default_rng([seed, 1]), CampaignState(), []
      policy = policy_lib.starting(constitution.budget.noise_seeds)
      for round_ in range(constitution.budget.rounds + 1):
        history.append(play(state, policy, world, families, rng, constitution))
        policy = decide(history, policy, constitution, defaults, seed=seed * 100 + round_)
      gains.append(float(np.mean(world.accuracies(policy.standing) - world.accuracies({}))))
    shares = ', '.join(f'more than {g} in {np.mean(np.asarray(gains) > g):.2f}' for g in (0.02, 0.03, 0.05))
    print(f'{agent}: promoted a true gain of {shares}; mean {np.mean(gains):+.4f}, lost more than .005 in {np.mean(np.asarray(gains) < -0.005):.2f}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('mode', choices=['collect', 'simulate'])
  parser.add_argument('runs', nargs='*', type=pathlib.Path)
  parser.add_argument('--count', type=int, default=60)
  arguments = parser.parse_args()
  single_threaded_blas()
  if arguments.mode == 'collect':
    collect(arguments.runs)
  else:
    simulate(arguments.count)


if __name__ == '__main__':
  main()
