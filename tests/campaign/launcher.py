"""`Launcher` runs a whole campaign whose collaborators are stand-ins: no process, no compilation.

Ledger, gate, sealing, the arbiter's operations, evidence and agent are the real ones; the gate
reads recipes in this process, since what its child process adds is tested by itself.
"""

import collections
import dataclasses
import time

from safetensors.numpy import save_file
from stand_ins import (
  WEIGHTS,
  StandInExecutor,
  StandInPrecompiler,
  StandInServer,
  results,
  scored,
  summary,
)

from aevo_jax import layout
from aevo_jax.campaign.campaign import Campaign
from aevo_jax.campaign.clock import Clock
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import parse_statements
from aevo_jax.evaluation.servers.arbiter import Arbiter
from aevo_jax.ledger.append import Ledger, read

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
BUDGET = (
  'budget.rounds = 2',
  'budget.workers = 3',
  'budget.noise_seeds = 2',
  'budget.final_seeds = 1',
  'release.per_round = 2',
)


class Launcher:
  """launch(behaviour, observer, **settings) -> (state, records) of a campaign of 2 rounds x 3
  workers; called again it resumes. Dev accuracy is .5 for everybody.

  Attributes:
    run: the run directory.
    attempts: trial -> attempts that were started, by whichever controller.
    compiled: markers of the programs that the precompiler was asked for.
    questions: trial -> polls before its attempts end.
    broken_precompiler: whether it ends at once, with nothing compiled.
    ledger_clock: of the records' times.
    collaborators: further arguments of `Campaign`.
  """

  def __init__(self, folder, *bindings):
    self.run = folder / 'run'
    self.attempts = collections.Counter()
    self.compiled = []
    self.questions = {}
    self.broken_precompiler = False
    self.ledger_clock = time.time
    self.collaborators = {}
    loading.load(
      [str(layout.root_file('constitution.gin'))],
      [*BUDGET, *bindings],
      search_paths=layout.search_paths(),
    )
    self.run.mkdir()
    (self.run / 'constitution.gin').write_text(constitution_lib.from_gin().text())
    save_file(WEIGHTS, self.run / 'base.safetensors')
    self._inputs = Inputs(
      constitution=constitution_lib.read(self.run / 'constitution.gin'),
      holdout='h',
      arbiter_campaign='c',
      store=str(folder),
      substrate_object='o',
      substrate_identity='i',
      base_digest='b',
      recipe=RECIPE,
      cache=str(folder / 'cache'),
      arbiter_home=str(folder / 'home'),
    )

  def __call__(self, behaviour, observer=lambda record: None, budget=None, **settings):
    constitution = self._inputs.constitution
    rules = dataclasses.replace(
      constitution, budget=dataclasses.replace(constitution.budget, **(budget or {}))
    )
    with Ledger.open(self.run / 'ledger.jsonl', clock=self.ledger_clock) as ledger:
      state = Campaign(
        self.run,
        ledger,
        CampaignSettings(**{'sandbox': 'open', 'parallel': 2} | settings),
        dataclasses.replace(self._inputs, constitution=rules),
        observer,
        **self.stand_ins(behaviour) | self.collaborators,
      ).run()
    return state, read(self.run / 'ledger.jsonl')

  def stand_ins(self, behaviour):
    arbiter = Arbiter(
      private=self.run.parent / 'home' / 'c',
      secret=b's' * 32,
      constitution=constitution_lib.read(self.run / 'constitution.gin'),
      score=lambda *_: (results(50), summary(50)),
    )
    return {
      'executor': StandInExecutor(behaviour, self.questions, self.attempts),
      'precompiler': StandInPrecompiler(self.compiled, self.broken_precompiler),
      'evaluator': StandInServer(scored(50)),
      'arbiter': StandInServer(lambda request: getattr(arbiter, request['op'])(request)),
      'parser': parse_statements,
      'clock': Clock(sleep=lambda seconds: None),
    }
