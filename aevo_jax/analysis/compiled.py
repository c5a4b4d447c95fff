"""A training step as a compiler makes it: memory, collectives and operations of each device.

Memory is the compiler's own allotment. Collectives are counted in the program that would run, and
matrix products in the one right after partitioning, where they are not yet calls of a library; both
by the trips of loops.
"""

import dataclasses
import pathlib
import tempfile
import time

from aevo_jax.analysis import hlo, resharding, targets
from aevo_jax.analysis.abstract_step import lower_step
from aevo_jax.analysis.collectives import Collective, collectives
from aevo_jax.analysis.diagnosis.diagnosis import diagnose
from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.finding import Finding
from aevo_jax.analysis.useful_flops import useful_flops
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding import mesh as mesh_lib
from aevo_jax.sharding.mesh import MeshConfig
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.placement import Placement, shapes_of
from aevo_jax.training.recipe.recipe import Recipe

_PARTITIONED = '*after_*spmd-partitioning.*.txt'
_WHOLE = '*before_optimizations.txt'  # on one device nothing is partitioned


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """What one device does and holds in a step.

  Attributes:
    target: name of the devices.
    mesh: {axis: size}.
    arguments: bytes of state, frozen weights and batch.
    temporaries: bytes that the program takes beside them, at most at a time.
    collectives: every one that devices take part in.
    compiled_flops: of the matrix products of one device. Kernels of grouped products skip rows that
      are of no group, and count as if tokens chose all experts evenly; kernels of attention skip
      keys that are not seen, and count half of all pairs.
    useful_flops: that all devices together cannot do without, over their number.
    resharded: arrays that the partitioner makes whole on every device.
    findings: what devices send, hold or compute and no rule asks for, the most bytes first.
    trace_s, compile_s: seconds that it took to trace and to compile.
  """

  target: str
  mesh: dict[str, int]
  arguments: int
  temporaries: int
  collectives: list[Collective]
  compiled_flops: float
  useful_flops: float
  resharded: list[resharding.Resharded]
  findings: list[Finding]
  trace_s: float
  compile_s: float

  @property
  def gathered_bytes(self) -> int:
    """Bytes of the results of all gathers of a step."""
    return sum(one.times * one.result_bytes for one in self.collectives if one.kind == 'all-gather')


def place(
  config: ModelConfig, recipe: Recipe, mesh: MeshConfig, rules: Sharding, devices: list
) -> Placement:
  """Puts a model on a mesh of any devices.

  Args:
    config: of the model.
    recipe: its adaptation decides what there is to place.
    mesh: axes.
    rules: of the sharding.
    devices: to lay the mesh over.

  Returns:
    The placement.

  Raises:
    ValueError: the mesh does not fit the devices, or the rules not the mesh.
  """
  layout = rules.bind(mesh.sizes(len(devices)))
  shapes = shapes_of(config, recipe.adaptation, recipe.lora)
  return Placement.of(mesh_lib.create(mesh, devices), layout, shapes, config)


def compile_step(
  config: ModelConfig, recipe: Recipe, mesh: MeshConfig, rules: Sharding, target: targets.Target
) -> CompiledStep:
  """Compiles the training step for a target, in a process that was prepared for it.

  Args:
    config: of the model.
    recipe: adaptation, optimizer, loss and batches.
    mesh: axes.
    rules: of the sharding.
    target: devices that need not be there.

  Returns:
    What the compiler made of it.

  Raises:
    ValueError: the mesh does not fit the devices, or the rules not the parameters or the batch.
  """
  placement = place(config, recipe, mesh, rules, list(targets.devices(target)))
  started = time.perf_counter()
  step = lower_step(config, recipe, placement)
  traced = time.perf_counter()
  with tempfile.TemporaryDirectory() as directory:
    options = {
      'xla_dump_to': directory,
      'xla_dump_hlo_pass_re': 'spmd-partitioning',
      'xla_dump_hlo_as_text': True,
    }
    with resharding.listening() as said:
      executable = step.lowered.compile(compiler_options=options)
    compiled = time.perf_counter()
    partitioned = hlo.parse(_program(pathlib.Path(directory), placement.layout.devices))
  memory = executable.memory_analysis()
  final = hlo.parse(executable.as_text())
  sizes = dict(placement.mesh.shape)
  asked = Asked.of(config, recipe, placement.layout, target.platform)
  train = recipe.train
  useful = useful_flops(config, recipe, rows=train.batch_rows, row_length=train.row_length)
  return CompiledStep(
    target=target.name,
    mesh=sizes,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    collectives=collectives(final, sizes),
    compiled_flops=partitioned.flops()
    + partitioned.grouped_flops() / placement.layout.shards('experts')
    + partitioned.attention_flops(),
    useful_flops=useful / placement.layout.devices,
    resharded=resharding.read(''.join(said), partitioned, placement.layout),
    findings=diagnose(partitioned, final, asked, step.state),
    trace_s=traced - started,
    compile_s=compiled - traced,
  )


def _program(directory: pathlib.Path, devices: int) -> str:
  """Returns the step's program from what the compiler wrote; small programs lie beside it."""
  files = sorted(
    directory.glob(_PARTITIONED if devices > 1 else _WHOLE), key=lambda path: path.stat().st_size
  )
  if not files:
    raise RuntimeError('the compiler wrote no program; is xla_dump_to set in XLA_FLAGS?')
  return files[-1].read_text()
