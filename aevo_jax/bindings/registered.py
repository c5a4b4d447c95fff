"""Registers every configurable, so that a gin file may be shared by all commands.

Importing this module imports JAX.
"""

from aevo_jax.analysis import hardware as _hardware
from aevo_jax.campaign.setup import settings as _campaign
from aevo_jax.config import constitution as _constitution
from aevo_jax.models import config as _model
from aevo_jax.sharding import mesh as _mesh
from aevo_jax.sharding import rules as _rules
from aevo_jax.simulation import settings as _simulation
from aevo_jax.training import run_control as _run_control
from aevo_jax.training.recipe import pretraining as _pretraining
from aevo_jax.training.recipe import recipe as _recipe

MODULES = (
  _campaign,
  _constitution,
  _hardware,
  _mesh,
  _model,
  _pretraining,
  _recipe,
  _rules,
  _run_control,
  _simulation,
)
