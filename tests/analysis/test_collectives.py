"""Collectives and products in programs' texts: groups in every spelling, trips, bytes by hand."""

import pathlib

import pytest

from aevo_jax.analysis import hlo
from aevo_jax.analysis.collectives import collectives, totals

MESH = {'fsdp': 2, 'tensor': 4}

# A loop of five turns whose body gathers, multiplies and reduces; before it, a permutation.
PROGRAM = (pathlib.Path(__file__).parent / 'program.hlo.txt').read_text()
SPELLINGS = [
  'replica_groups={{0,4},{1,5},{2,6},{3,7}}',
  'replica_groups=[4,2]<=[2,4]T(1,0)',
  "replica_groups=mesh['fsdp'=2,'tensor'=4] {'fsdp'}",
  # The first half of an axis that was cut in two, as XLA names a mesh of its own.
  "replica_groups=mesh['axis_0'=8] {'axis_0':(1)2}",
]


def program(groups: str = SPELLINGS[0], trips: str = '') -> hlo.Module:
  return hlo.parse(PROGRAM.replace('GROUPS', groups).replace('TRIPS', trips))


@pytest.mark.parametrize('groups', SPELLINGS)
def test_groups_are_read_in_every_spelling(groups):
  gather = collectives(program(groups), MESH)[1]
  assert gather.kind == 'all-gather' and gather.axes == ('fsdp',)
  assert gather.dtype == 'bf16' and gather.times == 5
  assert gather.result_bytes == 16 * 16 * 2 and gather.wire_bytes == 16 * 16 * 2 / 2
  assert gather.source == 'aevo_jax/models/decoder.py:7'  # not the line within JAX
  assert gather.op_name == 'jit(step)/gather'


@pytest.mark.parametrize(
  'groups',
  ['replica_groups=new{1}', "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}"],
)
def test_an_unknown_spelling_is_no_guess(groups):
  with pytest.raises(ValueError, match='unknown spelling'):
    collectives(program(groups), MESH)


def test_kinds_axes_and_bytes():
  permuted, gathered, reduced = collectives(program(), MESH)  # one device alone sends nothing
  assert permuted.kind == 'collective-permute' and permuted.axes == ('fsdp',)
  assert permuted.times == 1 and permuted.wire_bytes == 8 * 16 * 2
  assert reduced.axes == ('tensor',) and reduced.wire_bytes == 2 * 3 / 4 * 16 * 32 * 4
  added = totals([permuted, gathered, gathered, reduced])
  assert [total.kind for total in added] == ['all-reduce', 'all-gather', 'collective-permute']
  assert added[1].times == 10 and added[1].operations == 2


@pytest.mark.parametrize(
  ('trips', 'times'), [('', 5), (', backend_config={"known_trip_count":{"n":"3"}}', 3)]
)
def test_a_loop_counts_by_its_trips(trips, times):
  module = hlo.parse(
    PROGRAM.replace('GROUPS', SPELLINGS[0])
    .replace('TRIPS', trips)
    .replace('%x = bf16', '%weights = f32[16,32]{1,0} parameter(1)\n  %x = bf16')
  )
  assert module.flops() == times * 2 * 16 * 32 * 16


def test_an_asynchronous_gather_carries_its_operands():
  text = PROGRAM.replace('GROUPS', SPELLINGS[0]).replace('TRIPS', '')
  text = text.replace(
    'bf16[16,16]{1,0} all-gather(', '((bf16[8,16]{1,0}), bf16[16,16]{1,0}) all-gather-start('
  )
  gather = collectives(hlo.parse(text), MESH)[1]
  assert gather.kind == 'all-gather' and gather.result_bytes == 16 * 16 * 2


def test_what_is_no_program_is_named():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.parse('HloModule empty\n')


def test_kernels_of_groups_count_by_their_rows():
  kernel = (
    '%y = bf16[64,32]{1,0} custom-call(%rows, %matrices, %sizes), '
    'custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(step)/ragged_dot_sm90"}'
  )
  module = hlo.parse(
    'HloModule m\n\nENTRY %main (x: bf16[64,16]) -> bf16[64,32] {\n'
    '  %rows = bf16[64,16]{1,0} parameter(0)\n'
    '  %matrices = bf16[4,16,32]{2,1,0} parameter(1)\n'
    '  %sizes = s32[4]{0} parameter(2)\n'
    f'  {kernel}\n}}\n'
  )
  assert module.grouped_flops() == 2 * 64 * 16 * 32 and module.flops() == 0


def test_kernels_of_attention_count_half_of_the_pairs():
  """Forward two products; backward, by what goes in and comes out, three and four."""
  q = 'bf16[64,4,16]{2,1,0}'
  k = 'bf16[64,2,16]{2,1,0}'
  call = 'custom_call_target="mosaic_gpu_v2"'
  text = (
    f'HloModule m\n\nENTRY %main (x: f32[]) -> f32[] {{\n  %q = {q} parameter(0)\n'
    f'  %k = {k} parameter(1)\n  %s = s32[1,64]{{1,0}} parameter(2)\n'
    f'  %y = {q} custom-call(%q, %k, %k, %s), {call}\n'
    f'  %dq = {q} custom-call(%q, %k, %k, %q, %s), {call}\n'
    f'  %dkv = ({k}, {k}) custom-call(%q, %k, %k, %q, %s), {call}\n}}\n'
  )
  one = 2 * 64 * 64 / 2 * 4 * 16
  assert hlo.parse(text).attention_flops() == (2 + 3 + 4) * one
  assert hlo.parse(text).grouped_flops() == 0


def test_kernels_of_a_tpu_have_heads_first_and_tables_among_their_operands():
  q = 'bf16[3,4,64,16]{3,2,1,0}'
  k = 'bf16[3,2,64,16]{3,2,1,0}'
  call = 'custom_call_target="tpu_custom_call"'
  text = (
    f'HloModule m\n\nENTRY %main (x: f32[]) -> f32[] {{\n  %q = {q} parameter(0)\n'
    f'  %k = {k} parameter(1)\n  %s = s8[1,1,1]{{2,1,0}} parameter(2)\n'
    '  %n = f32[3,4,8,64]{3,2,1,0} parameter(3)\n'
    f'  %y = ({q}, f32[3,4,64,128]{{3,2,1,0}}) custom-call(%s, %s, %q, %k, %k), {call}\n'
    f'  %dq = {q} custom-call(%s, %s, %q, %k, %k, %n, %q), {call}\n'
    f'  %dkv = ({k}, {k}) custom-call(%s, %s, %q, %k, %k, %n, %q), {call}\n}}\n'
  )
  assert hlo.parse(text).attention_flops() == 3 * (2 + 3 + 4) * 2 * 64 * 64 / 2 * 4 * 16
