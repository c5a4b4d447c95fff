"""The registry of agents: name in `campaign.agent` -> class. A new agent is a module and a row."""

from collections.abc import Mapping

from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.best_of_n import BestOfN, BestOfNTested
from aevo_jax.meta_agent.agents.frozen import Frozen
from aevo_jax.meta_agent.agents.halving import Halving, HalvingTested
from aevo_jax.meta_agent.agents.keep_or_discard import KeepOrDiscard
from aevo_jax.meta_agent.agents.optuna_search import Gp, GpTested, Tpe, TpeTested
from aevo_jax.meta_agent.agents.random_search import (
  RandomSearch,
  RandomTested,
  SparseRandom,
  SparseTested,
)
from aevo_jax.meta_agent.agents.sparse_gp import SparseGp, SparseGpTested
from aevo_jax.meta_agent.agents.statistical import Statistical
from aevo_jax.meta_agent.agents.untested import Untested
from aevo_jax.meta_agent.llm.agent import LlmAgent

AGENTS: Mapping[str, type[Agent]] = {
  'statistical': Statistical,
  'statistical_untested': Untested,
  'random': RandomSearch,
  'random_tested': RandomTested,
  'sparse': SparseRandom,
  'sparse_tested': SparseTested,
  'best_of_n': BestOfN,
  'best_of_n_tested': BestOfNTested,
  'halving': Halving,
  'halving_tested': HalvingTested,
  'tpe': Tpe,
  'tpe_tested': TpeTested,
  'gp': Gp,
  'gp_tested': GpTested,
  'sparse_gp': SparseGp,
  'sparse_gp_tested': SparseGpTested,
  'frozen': Frozen,
  'keep_or_discard': KeepOrDiscard,
  'llm': LlmAgent,
}

# Agents that are functions of the evidence alone, which simulated campaigns can play.
OFFLINE = tuple(name for name, agent in AGENTS.items() if not agent.asks_llm)
