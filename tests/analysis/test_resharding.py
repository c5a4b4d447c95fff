"""What a partitioner makes whole is read from what it says, with line and rules."""

import os

from aevo_jax.analysis import hlo, resharding
from aevo_jax.sharding.rules import Sharding

LAYOUT = Sharding({'embed': 'fsdp', 'length': 'context', 'mlp': 'tensor'}).bind(
  {'fsdp': 2, 'context': 4, 'tensor': 1}
)
MODULE = hlo.Module({}, 'main', {87: 'aevo_jax/models/decoder.py:300'})
SAID = (
  'W1130 17:43:09.715769 9133 spmd_partitioner.cc:666] [SPMD] Involuntary full rematerialization. '
  'The compiler cannot go from sharding {before} to {after} efficiently for HLO operation {what}. '
  'As the last resort, SPMD will replicate the tensor and then partition it to obtain the target '
  'sharding, which is inefficient.\n'
)
GATHER = SAID.format(
  before="{mesh['fsdp'=2,'context'=4], [{}, {}, {'fsdp', 'context'}]}",
  after="{mesh['fsdp'=2,'context'=4], [{'fsdp'}, {'context'}, {}]}",
  what='%gather = f32[8,32,4]{2,1,0} gather(%p.0, %all-gather), offset_dims={2}, metadata={'
  'op_name="jit(step)/take" stack_frame_id=87}',
)
PARAMETER = SAID.format(
  before='{devices=[4,1]0,1,2,3}',
  after='{devices=[1,2,2]<=[4] last_tile_dim_replicate}',
  what='%fake_parameter.2 = bf16[4,8,32]{2,1,0} parameter(2), sharding={devices=[4,1]0,1,2,3}',
)


def test_an_array_is_named_with_its_line_and_rules():
  parameter, gather = resharding.read(PARAMETER + GATHER, MODULE, LAYOUT)[::-1]
  assert gather.array == 'f32[8,32,4]' and gather.size == 8 * 32 * 4 * 4
  assert gather.source == 'aevo_jax/models/decoder.py:300' and gather.op_name == 'jit(step)/take'
  assert gather.rules == ('embed', 'length')
  assert parameter.array == 'bf16[4,8,32]' and parameter.rules == () and parameter.source == ''
  said = resharding.sentence(gather)
  assert said.startswith(
    'f32[8,32,4] (aevo_jax/models/decoder.py:300 jit(step)/take) is made whole'
  )
  assert said.endswith("rules with these axes: 'embed', 'length'")
  assert '(the result of parameter)' in resharding.sentence(parameter)


def test_the_same_is_named_once_and_other_messages_not_at_all():
  text = GATHER + 'W1130 another warning\n' + GATHER
  assert len(resharding.read(text, MODULE, LAYOUT)) == 1


def test_it_listens_and_lets_the_rest_through(capfd):
  with resharding.listening() as heard:
    os.write(2, b'something else\n')
    os.write(2, GATHER.encode())
  assert capfd.readouterr().err == 'something else\n'
  assert heard == [GATHER]
