"""Simulate campaigns on a response surface instead of training.

  aevo simulate --campaigns=200 --agents=statistical,random
  aevo simulate --campaigns=2000 --agents=none --plant=reversal
  aevo simulate --gin_file=configs/campaigns/nemotron3_nano_30b.gin \
    --gin.simulation.surface=rugged --json

Prints power, false alarms, gains and regret of agents and verdicts. The first command plays the
demo's constitution with nothing planted; the second judges random designs, thousands a minute.
Campaigns go through the agents, releases, evidence and verdicts of a real one; docs/simulate.md
says what the surface and the plant are. Settings: gin's section `simulation`.
"""

import json
import sys

from absl import flags

from aevo_jax import command, layout
from aevo_jax.runtime import single_threaded_blas

COMMAND = command.Command('simulate', __doc__)
_CAMPAIGNS = flags.DEFINE_integer(
  'campaigns', 100, 'Campaigns of each agent.', lower_bound=1, flag_values=COMMAND.flags
)
_AGENTS = flags.DEFINE_list(
  'agents',
  ['statistical'],
  "AGENT,...: names as in campaign.agent; 'none' draws designs at random and judges them.",
  flag_values=COMMAND.flags,
)
_PLANT = flags.DEFINE_enum(
  'plant',
  'none',
  ['none', 'shortcut', 'reversal'],
  (
    'A decoupling: from some round on an axis moves a family on dev and not, or inversely, '
    'on external.'
  ),
  flag_values=COMMAND.flags,
)
_PROCESSES = flags.DEFINE_integer(
  'processes', 1, 'Processes that play campaigns at once.', lower_bound=1, flag_values=COMMAND.flags
)
_JSON = flags.DEFINE_bool(
  'json', False, 'Print JSON, with every campaign.', flag_values=COMMAND.flags
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Plays the campaigns and prints what came of them."""
  del arguments
  single_threaded_blas()  # before numpy is imported
  from aevo_jax.campaign.setup import setup
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.config.configurables import resolve
  from aevo_jax.config.nearest import suggestion
  from aevo_jax.evaluation.sets import own_tasks
  from aevo_jax.meta_agent.agents.optuna_search import MissingExtraError
  from aevo_jax.meta_agent.registry import OFFLINE
  from aevo_jax.simulation import study
  from aevo_jax.simulation.scenario import Scenario
  from aevo_jax.tasks.mixture import FAMILIES

  for agent in _AGENTS.value:
    if agent not in (*OFFLINE, study.NO_AGENT):
      sys.exit(f'simulate: no agent {agent!r}' + suggestion(agent, [*OFFLINE, study.NO_AGENT]))
  COMMAND.load_gin(layout.root_file('constitution.gin'))
  try:
    constitution = constitution_lib.from_gin()
    settings = resolve('simulation')
    own = own_tasks(constitution, setup.tasks_path(constitution.tasks.path))
    families = tuple(FAMILIES)
    if own:
      families = tuple(sorted({item.family for item in own.items}))
    scenario = Scenario(
      constitution,
      settings,
      (layout.root_file('substrate') / 'recipe.gin').read_text(),
      families,
      _PLANT.value,
    )
    found = study.outcomes(scenario, _AGENTS.value, _CAMPAIGNS.value, _PROCESSES.value)
  except (MissingExtraError, OSError, ValueError) as error:
    sys.exit(f'simulate: {error}')
  if _JSON.value:
    report = {}
    for agent, (outcomes, seconds) in found.items():
      report[agent] = study.summary(outcomes, seconds) | {'outcomes': study.as_json(outcomes)}
    print(json.dumps(report, indent=1))
    return
  budget = constitution.budget
  print(
    f'{_CAMPAIGNS.value} campaigns of {budget.rounds} rounds x {budget.workers} workers, '
    f'surface {settings.surface!r}, {len(families)} families, plant {_PLANT.value!r}'
  )
  for agent, (outcomes, seconds) in found.items():
    print(f'{agent}:')
    for line in study.lines(study.summary(outcomes, seconds)):
      print(f'  {line}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
