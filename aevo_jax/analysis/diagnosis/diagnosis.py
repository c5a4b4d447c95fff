"""Everything that is to be changed about a step's sharding."""

from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.finding import Finding
from aevo_jax.analysis.diagnosis.idle import idle
from aevo_jax.analysis.diagnosis.loops import in_loops
from aevo_jax.analysis.diagnosis.unexpected import unexpected
from aevo_jax.analysis.hlo import Module
from aevo_jax.training.train_state import TrainState


def diagnose(partitioned: Module, final: Module, asked: Asked, state: TrainState) -> list[Finding]:
  """Sets what a compiler made of a step against what the rules ask for.

  Args:
    partitioned: the program right after partitioning.
    final: the program that would run.
    asked: the model under the rules.
    state: of the training, shapes.

  Returns:
    What devices compute and hold for nothing first, then what they send.
  """
  if asked.layout.devices == 1:
    return []
  mesh = dict(asked.layout.sizes)
  return [
    *idle(asked),
    *in_loops(final, mesh, asked),
    *unexpected(partitioned, mesh, asked, state),
  ]
