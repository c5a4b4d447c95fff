"""How often noise is promoted, and how often a true gain is, by the rule and both its agents.

  .venv/bin/python benchmarks/promotion_noise.py [--worlds=...] [--agents=...] [--campaigns=300]
      adds the campaigns that are missing to benchmarks/results/promotion_noise.jsonl
  .venv/bin/python benchmarks/promotion_noise.py --table     prints them as Markdown

A campaign is played on a surface where nothing matters, so that every promotion is false, or where
one value of one choice gains .04 (`simulation.surface = 'single'`). Agents, releases, evidence and
promotions are the real ones (`aevo simulate`; each world is a list of its bindings). 'statistical'
has the demo's 4 rounds of 8 workers. 'keep_or_discard' has 100 rounds of one trial under
configs/campaigns/autoresearch.gin, with 8 candidates; it is called without the renaming of families
and axes, on which it does not depend.

Worlds marked 'design' were simulated, in abstract form, while the rule was chosen. The others were
only judged. Rows hold a digest of the code that decides them; `--table` marks older ones.
"""

import argparse
import collections
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aevo_jax.runtime import single_threaded_blas

single_threaded_blas()  # before numpy is imported

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.decisions.next_policy import next_policy
from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.campaign.setup import settings as _settings  # noqa: F401 registers campaign bindings
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.meta_agent import observations
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agents.keep_or_discard import KeepOrDiscard
from aevo_jax.simulation.campaign import Simulator
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks.mixture import FAMILIES

RESULT = pathlib.Path(__file__).parent / 'results' / 'promotion_noise.jsonl'
AGENTS = ('statistical', 'keep_or_discard')
KEEP_OR_DISCARD = ('budget.rounds = 100', 'promotion.candidates = 8')
# A change counts as the planted gain from this true gain on.
FOUND = 0.03
DECIDING = (
  'meta_agent/promotion_rule.py',
  'meta_agent/promotion_value.py',
  'meta_agent/observations.py',
  'meta_agent/proposals.py',
  'meta_agent/agents/statistical.py',
  'meta_agent/agents/keep_or_discard.py',
  'stats/comparisons/mean_gain.py',
  'simulation/campaign.py',
)

# Dev sd .008 and external sd .010 between seeds of one recipe, as the demo's: .0085 on dev (48
# degrees of freedom, benchmarks/results/trials.json) and .0105 on 3,000 final items (6 degrees of
# freedom, `items` of benchmarks/results/campaign_gain).
DEMO = {'seed_sd': 0.05, 'transfer_sd': 0.02}
DEMO_SETS = ('dev_set.items = 4800',)


class World(NamedTuple):
  """What is simulated: settings of the simulation, bindings of the constitution, and a sentence."""

  words: str
  settings: dict[str, Any]
  bindings: tuple[str, ...] = DEMO_SETS
  design: bool = False


# external_sd .14 in log-odds is about .03 in accuracy, .045 about .01.
WORLDS = {
  'demo': World("the demo's noise", DEMO, design=True),
  'external': World(
    'an external seed sd of .03 of its own', DEMO | {'external_sd': 0.14}, design=True
  ),
  'changed': World(
    'changed recipes three times as noisy as anchors',
    DEMO | {'external_sd': 0.045, 'changed_noise': 3.0},
    design=True,
  ),
  'heavy': World(
    "heavy tails: Student's t(3), external sd .02",
    DEMO | {'external_sd': 0.09, 'tail': 3},
    design=True,
  ),
  'wild': World(
    'one changed recipe in ten five times as noisy',
    DEMO | {'external_sd': 0.045, 'wild_share': 0.1},
    design=True,
  ),
  'round': World(
    "trials of one round share half of the external score's variance",
    DEMO | {'external_sd': 0.06, 'round_sd': 0.06},
  ),
  'shared': World(
    "a seed's luck is that of dev: released only if good on dev, families correlated",
    DEMO | {'shared_sd': 0.09},
  ),
  'rounding': World(
    'noise far below the rounding at release',
    {'seed_sd': 0.005, 'transfer_sd': 0.0},
    ('dev_set.items = 600000', 'external_set.items = 600000'),
  ),
  'ceiling': World(
    'families near 0 and 1: noise depends on the level',
    {'base': 0.8, 'base_sd': 2.5, 'external_sd': 0.2},
  ),
  'growing': World(
    'noise grows by half from round to round (keep_or_discard: by 2%)',
    DEMO | {'external_sd': 0.045},
  ),
  'few': World(
    'two anchors in round 0, heavy tails, changed recipes twice as noisy',
    DEMO | {'external_sd': 0.09, 'changed_noise': 2.0, 'tail': 3},
    (*DEMO_SETS, 'budget.noise_seeds = 2'),
  ),
}
SINGLE = {'surface': 'single', 'gain': 0.04}
GAINS = {
  'gain': World("a gain of .04 at the demo's noise", DEMO | SINGLE),
  'noisy_gain': World(
    'a gain of .04 at an external seed sd of .02', DEMO | SINGLE | {'external_sd': 0.08}
  ),
  'slice': World(
    'a gain of .04 with which one family falls by .15', DEMO | SINGLE | {'slice_harm': 0.15}
  ),
  'slice_without_floor': World(
    'the same with promotion.family_floor = 1',
    DEMO | SINGLE | {'slice_harm': 0.15},
    (*DEMO_SETS, 'promotion.family_floor = 1.0'),
  ),
}


def digest() -> str:
  """Hashes the code that decides a row."""
  found = hashlib.sha256(pathlib.Path(__file__).read_bytes())
  for name in DECIDING:
    found.update((layout.root_file('constitution.gin').parent / 'aevo_jax' / name).read_bytes())
  return found.hexdigest()[:12]


def scenario(world: str, agent: str) -> Scenario:
  """Makes what a world's campaigns are drawn from."""
  known = {**WORLDS, **GAINS}[world]
  files = [str(layout.root_file('constitution.gin'))]
  bindings = list(known.bindings)
  settings: dict[str, Any] = {'surface': 'flat'} | known.settings
  if agent == 'keep_or_discard':
    files.append(str(layout.root_file('configs') / 'campaigns' / 'autoresearch.gin'))
    bindings += KEEP_OR_DISCARD
  if world == 'growing':
    settings['noise_growth'] = 0.5 if agent == 'statistical' else 0.02
  loading.load(files, bindings, search_paths=layout.search_paths())
  recipe = (layout.root_file('substrate') / 'recipe.gin').read_text()
  simulated = Settings(verdicts=False, **settings)
  return Scenario(constitution_lib.from_gin(), simulated, recipe, tuple(FAMILIES))


def play(scenario: Scenario, agent: str, index: int) -> dict[str, Any]:
  """Plays a campaign, and counts its promotions and what was tested."""
  constitution = scenario.constitution
  simulator = Simulator(scenario, index)
  seed = trial_seed(scenario.settings.seed, str(index))
  defaults = default_values(scenario.recipe)
  state = CampaignState()
  history = []
  policies = [policy_lib.starting(constitution.budget.noise_seeds)]
  for number in range(constitution.budget.rounds + 1):
    history.append(simulator.run_round(state, policies[-1]))
    if agent == 'keep_or_discard':
      following = KeepOrDiscard().decide(
        history, policies[-1], constitution, defaults, trial_seed(seed, f'agent{number}')
      )
    else:
      following = next_policy(
        history,
        policies[-1],
        constitution,
        recipe=scenario.recipe,
        agent=agent,
        campaign_seed=seed,
      )
    policies.append(following)
  standing = [policies[0].standing]
  for policy in policies:
    if policy.standing != standing[-1]:
      standing.append(policy.standing)
  truths = [simulator.truth(overlay) for overlay in standing]
  steps = np.diff(truths).tolist()
  held_back = sum('held back' in r or 'family fell' in r for p in policies for r in p.reasons)
  return {
    'false': sum(step <= 0 for step in steps),
    'found': sum(step >= FOUND for step in steps),
    'promotions': len(steps),
    'gain': round(truths[-1] - truths[0], 5),
    'held_back': held_back,
    **_tested(history, simulator, constitution),
  }


def _tested(history: Sequence, simulator: Simulator, constitution) -> dict[str, Any]:
  """Whether the planted gain ran and was tested, and how noisy released scores are."""
  start = simulator.truth({})
  ran = False
  released = []
  for evidence in history:
    for trial in evidence.trials:
      overlay = {**evidence.standing, **trial.changes}
      ran = ran or simulator.truth(overlay) - start >= FOUND
    released += [t.external for t in evidence.trials if t.is_anchor and t.external is not None]
  tested = 0
  for candidate in observations.candidates(history, constitution):
    before = simulator.truth(candidate.standing)
    gain = simulator.truth({**candidate.standing, **candidate.changes}) - before
    tested += candidate.tests > 0 and gain >= FOUND
  noise = history[-1].noise
  return {
    'ran': bool(ran),
    'tested': int(tested),
    'dev_sd': noise.seed_sd,
    'anchor_sd': noise.external.anchor_sd,
    'changed_sd': noise.external.changed_sd,
    'changed_freedom': noise.external.changed_freedom,
  }


def rows() -> list[dict[str, Any]]:
  """Reads the campaigns that were played."""
  if not RESULT.exists():
    return []
  return [json.loads(line) for line in RESULT.read_text().splitlines()]


def missing(worlds: Sequence[str], agents: Sequence[str], campaigns: int) -> Iterator[tuple]:
  """Yields what is to be played, in slices of 50 of every world."""
  code = digest()
  done = {(r['world'], r['agent'], r['index']) for r in rows() if r['digest'] == code}
  for start in range(0, campaigns, 50):
    for agent in agents:
      for world in worlds:
        indices = range(start, min(start + 50, campaigns))
        left = [i for i in indices if (world, agent, i) not in done]
        if left:
          yield world, agent, left


def simulate(worlds: Sequence[str], agents: Sequence[str], campaigns: int) -> None:
  """Plays what is missing."""
  code = digest()
  for world, agent, indices in missing(worlds, agents, campaigns):
    drawn = scenario(world, agent)
    for index in indices:
      row = {'world': world, 'agent': agent, 'index': index, 'digest': code}
      row |= play(drawn, agent, index)
      with RESULT.open('a') as file:
        file.write(json.dumps(row) + '\n')


def share(count: int, total: int) -> str:
  """A share with its Wilson interval."""
  if not total:
    return '-'
  interval = wilson(count, total)
  return f'{count / total:.3f} [{interval.low:.3f}, {interval.high:.3f}]'


def table() -> str:
  """Two Markdown tables: worlds where nothing gains, and worlds with a gain."""
  groups = collections.defaultdict(list)
  for row in rows():
    groups[row['world'], row['agent'], row['digest']].append(row)
  lines = [
    (
      '| world | agent | campaigns | a false promotion [95%] | external sd: anchors, changed | '
      'used for |'
    ),
    '|---|---|---|---|---|---|',
  ]
  for (world, agent, code), found in sorted(groups.items(), key=_order):
    if world in WORLDS:
      false = sum(row['false'] > 0 for row in found)
      use = 'design' if WORLDS[world].design else 'judging'
      sds = f'{_sd(found, "anchor_sd"):.3f}, {_sd(found, "changed_sd"):.3f}'
      lines.append(
        f'| {WORLDS[world].words} | {agent} | {len(found)} | {share(false, len(found))} | {sds} | '
        f'{use}{_age(code)} |'
      )
  lines += [
    '',
    (
      '| world | agent | campaigns | true gain | gain ran | promoted it, of campaigns where it '
      'ran | of those where it was tested | a false promotion | held back |'
    ),
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for (world, agent, code), found in sorted(groups.items(), key=_order):
    if world in GAINS:
      ran = [row for row in found if row['ran']]
      tested = [row for row in found if row['tested']]
      of_tested = sum(row['found'] > 0 for row in tested)
      promoted = sum(row['found'] > 0 for row in ran)
      lines.append(
        f'| {GAINS[world].words}{_age(code)} | {agent} | {len(found)} | '
        f'{np.mean([r["gain"] for r in found]):+.4f} | {share(len(ran), len(found))} | '
        f'{share(promoted, len(ran))} | {share(of_tested, len(tested))} | '
        f'{share(sum(r["false"] > 0 for r in found), len(found))} | '
        f'{share(sum(r["held_back"] > 0 for r in found), len(found))} |'
      )
  return '\n'.join(lines)


def _order(item: tuple) -> tuple:
  (world, agent, code), _ = item
  return (AGENTS.index(agent), [*WORLDS, *GAINS].index(world), code)


def _age(code: str) -> str:
  return '' if code == digest() else f' (older code {code})'


def _sd(found: Sequence[dict], name: str) -> float:
  """Root mean square of a standard deviation over campaigns that measured it."""
  values = [row[name] for row in found if name != 'changed_sd' or row['changed_freedom']]
  return float(np.sqrt(np.mean(np.square(values)))) if values else float('nan')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--worlds', default=','.join([*WORLDS, *GAINS]))
  parser.add_argument('--agents', default=','.join(AGENTS))
  parser.add_argument('--campaigns', type=int, default=300)
  parser.add_argument('--table', action='store_true')
  arguments = parser.parse_args()
  if not arguments.table:
    simulate(arguments.worlds.split(','), arguments.agents.split(','), arguments.campaigns)
  print(table())


if __name__ == '__main__':
  main()
