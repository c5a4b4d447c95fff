"""What a step takes at least on datasheets' devices, by hand; rows, their order, table and page."""

import pytest

from aevo_jax import layout
from aevo_jax.analysis import comparison, hardware, targets
from aevo_jax.config.configurables import LoadError

CHIP = hardware.Hardware(
  memory_gb=10.0,
  peak_tflops=100.0,
  memory_tb_s=1.0,
  devices_of_host=8,
  link_gb_s=100.0,
  network_gb_s=10.0,
)
MESH = {'data': 2, 'fsdp': 4, 'tensor': 2}  # two hosts of eight


@pytest.mark.parametrize(
  ('axes', 'within'),
  [(['tensor'], True), (['fsdp'], True), (['fsdp', 'tensor'], True), (['data'], False),
   (['data', 'tensor'], False), ([], True)],
)  # fmt: skip
def test_axes_that_leave_a_host(axes, within):
  assert CHIP.is_within_host(axes, MESH) == within


def test_a_tpus_slice_and_one_host_have_fast_links_alone():
  slice_ = hardware.Hardware(devices_of_host=0)
  assert slice_.is_within_host(['data'], MESH)
  assert CHIP.is_within_host(['data'], {'data': 4, 'tensor': 2})


def test_bounds_by_hand():
  sent = [
    {'axes': ['fsdp'], 'wire_bytes': 5e9},
    {'axes': ['data'], 'wire_bytes': 1e9},
    {'axes': ['tensor'], 'wire_bytes': 1e9},
  ]
  compiled = {'compiled_flops': 20e12, 'useful_flops': 10e12, 'arguments': 4e9}
  bounds = hardware.roofline(CHIP, MESH, compiled | {'collectives': sent})
  assert bounds == pytest.approx((0.1, 0.2, 0.004, 0.06, 0.1))
  assert bounds.shortest == pytest.approx(0.1) and bounds.longest == pytest.approx(0.364)
  held = hardware.roofline(CHIP, MESH, compiled | {'collectives': [], 'arguments': 8e11})
  assert held.shortest == pytest.approx(0.8)


@pytest.mark.parametrize(
  ('state', 'temporary', 'largest'),
  [
    (4e9, {8: 2e9, 16: 3e9}, 40),  # 4 GB are left for batches of 8 at 1 GB each
    (7e9, {8: 2e9, 16: 3e9}, 16),
    (9e9, {8: 2e9, 16: 3e9}, 0),
  ],
)
def test_the_largest_batch_by_hand(state, temporary, largest):
  assert hardware.largest_batch(CHIP, state, temporary) == largest


@pytest.mark.parametrize('name', ['h100', 'h200', 'b200', 'v5p', 'v6e', 'cpu'])
def test_every_published_device_is_read(name):
  found = hardware.load_hardware(name, layout.search_paths())
  assert found.memory_gb > 1
  other = hardware.load_hardware(name, layout.search_paths(), ['hardware.memory_gb = 7.0'])
  assert other.memory_gb == 7.0


def test_an_unknown_device_is_named():
  with pytest.raises(LoadError, match=r'configs/hardware/abacus\.gin'):
    hardware.load_hardware('abacus', layout.search_paths())


def found(sent: float = 1e9, flops: float = 10e12, held: int = 10**9, said: str = '') -> dict:
  return {
    'mesh': MESH,
    'devices': 16,
    'rows': 32,
    'row_length': 100,
    'estimated_state': 4e9,
    'temporary_by_rows': {'32': 3e9, '64': 6e9},
    'compiled': {
      'arguments': held,
      'temporaries': held,
      'compiled_flops': flops,
      'useful_flops': 10e12,
      'resharded': [],
      'findings': [{'kind': 'idle mesh axis', 'sentence': said}] if said else [],
      'collectives': [
        {'kind': 'all-gather', 'axes': ['fsdp'], 'wire_bytes': sent},
        {'kind': 'all-reduce', 'axes': ['data'], 'wire_bytes': sent},
      ],
    },
  }


TARGET = targets.Target('h200x16', 'h200', 16)


def rows() -> list[dict]:
  return [
    comparison.row('refused', TARGET, {'error': "'vocab' | 122 cannot be divided"}, CHIP),
    comparison.row('wasteful', TARGET, found(flops=30e12), CHIP),
    comparison.row('large', TARGET, found(held=6 * 10**9), CHIP),
    comparison.row('talkative', TARGET, found(sent=9e9), CHIP),
    comparison.row('good', TARGET, found(), CHIP),
  ]


def test_rows_are_ordered_and_a_refusal_is_one_too():
  ordered = [found['mesh'] for found in comparison.order(rows())]
  assert ordered == ['good', 'wasteful', 'talkative', 'large', 'refused']


def test_a_row_by_hand():
  good = rows()[-1]
  assert good['fits'] and good['largest_batch'] == 64
  assert good['roofline']['shortest'] == pytest.approx(0.1)
  assert good['roofline']['longest'] == pytest.approx(0.1 + 0.001 + 0.01 + 0.1)
  assert good['tokens_per_second_of_device'] == pytest.approx([200 / 0.211, 200 / 0.1])
  assert not good['warnings']


def test_what_to_change_is_named():
  said = {found['mesh']: found.get('warnings', []) for found in rows()}
  assert said['wasteful'] == ['3.0 times the useful products are computed']
  assert said['talkative'] == ['what is sent between hosts takes longer than all products']
  assert not said['good']
  assert said['large'] == [
    '11.2 GiB do not fit in 9.3; the largest batch that does, by the estimate: 64 rows'
  ]
  full = comparison.row('full', TARGET, found(held=10**10) | {'estimated_state': 1e10}, CHIP)
  assert full['warnings'] == ['18.6 GiB do not fit in 9.3, whatever the batch']
  idle = comparison.row('idle', TARGET, found(said="axis 'x' is idle"), CHIP)
  assert idle['warnings'] == ["axis 'x' is idle"]


def test_table_and_page_have_every_row_and_need_nothing_else():
  text = comparison.text(rows())
  assert text.count('\n') == 1 + 5 + 3  # head, rows, warnings
  assert '| good | h200x16 | 32 x 100 | 0.93 | 0.93 | yes | 64 | fsdp 0.93, data 0.93 |' in text
  page = comparison.html(rows(), 'aevo compare_sharding <x>')
  assert '&lt;x&gt;' in page and '<svg' in page and 'refused' in page
  assert 'src=' not in page and 'href="http' not in page and '<script' not in page


def with_measured() -> list[dict]:
  """A mesh that was measured, the control, a mesh that failed when it ran, and one left out."""
  good = rows()[-1] | {'gin': 'mesh.axes = {}\nsharding.rules = {}\n'}
  over = {'mean': 0.25, 'low': 0.2, 'high': 0.3, 'rounds': 5}
  times = {'devices': '8 x cpu', 'steps': 3, 'round_seconds': [0.1, 0.1], 'seconds': 0.1}
  good['measured'] = times | {'over_baseline': over, 'verdict': 'reject'}
  failed = comparison.row('failed', TARGET, found(), CHIP)
  failed['measured'] = {'error': 'RuntimeError: out of memory', 'round_seconds': []}
  control = {'mesh': 'control', 'hardware': 'h200x16', 'repeats': 'good', 'measured': times}
  control |= {'spread': 0.05, 'rank_correlation': {'tau': 0.5, 'p': 0.25, 'meshes': 4}}
  left_out = {'mesh': 'data16', 'hardware': 'h200x16', 'left_out': 'its state takes 200 GB'}
  return [good, failed, control, left_out]


def test_what_was_measured_has_columns_and_lines_of_its_own():
  text = comparison.text(with_measured())
  head, _, good, failed, control, *below = text.splitlines()
  assert head.endswith('| ms measured | over the baseline | verdict |')
  assert good.endswith('| 100 | +25.0% [+20.0%, +30.0%] | reject |')
  assert failed.endswith('|  |  | RuntimeError: out of memory |')
  assert control.startswith('| control | h200x16 | good again |') and '| 100 |' in control
  assert len({line.count('|') for line in (head, good, failed, control)}) == 1
  assert below == [
    'measured for h200x16 on 8 x cpu, in turns, 3 steps a round, 2 rounds; the control runs good '
    'again, and its spread is 5.0%',
    "predicted and measured order: Kendall's tau 0.50 (p = 0.25) of 4 meshes, predicted by the "
    'geometric middle of ms at least',
    'mesh file of good (--json has all):',
    'mesh.axes = {}',
    'sharding.rules = {}',
    'left out for h200x16: data16: its state takes 200 GB',
  ]
  page = comparison.html(with_measured(), 'aevo compare_sharding')
  assert 'ms measured' in page and 'its state takes 200 GB' in page and '+25.0%' in page


def test_columns_of_times_are_there_only_where_some_were_measured():
  assert 'ms measured' not in comparison.text(rows())
