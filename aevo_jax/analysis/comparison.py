"""Rows of `aevo compare_sharding`: what compilers said of meshes, as table, JSON and page."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib.figure

from aevo_jax.analysis import targets
from aevo_jax.analysis.hardware import Hardware, largest_batch, load_hardware, roofline

Row = dict[str, Any]
_GIB = 2**30


def load(target: targets.Target, search_paths: Sequence[str], bindings: Sequence[str]) -> Hardware:
  """Reads the description of a target's devices.

  Args:
    target: of the devices.
    search_paths: directories that have configs/.
    bindings: over the file's.

  Returns:
    The device.
  """
  return load_hardware(target.hardware, search_paths, bindings)


def row(mesh: str, target: targets.Target, found: Mapping[str, Any], hardware: Hardware) -> Row:
  """Makes a row.

  Args:
    mesh: name of the mesh file.
    target: the devices.
    found: what `aevo shapes --compile --json` printed, or {'error': why it did not}.
    hardware: of the devices.

  Returns:
    Sizes in bytes per device, times in seconds of a step.
  """
  named = {'mesh': mesh, 'hardware': target.name}
  if 'error' in found:
    return named | {'error': found['error']}
  compiled = found['compiled']
  held = compiled['arguments'] + compiled['temporaries']
  bounds = roofline(hardware, found['mesh'], compiled)
  by_rows = {int(rows): size for rows, size in found['temporary_by_rows'].items()}
  largest = largest_batch(hardware, found['estimated_state'], by_rows)
  tokens = found['rows'] * found['row_length'] / found['devices']
  return named | {
    'sizes': found['mesh'],
    'rows': found['rows'],
    'row_length': found['row_length'],
    'state': compiled['arguments'],
    'temporaries': compiled['temporaries'],
    'fits': held <= hardware.memory_gb * 1e9,
    'largest_batch': largest,
    'collectives': compiled['collectives'],
    'compiled_over_useful': compiled['compiled_flops'] / compiled['useful_flops'],
    'roofline': bounds._asdict() | {'shortest': bounds.shortest, 'longest': bounds.longest},
    'tokens_per_second_of_device': [tokens / bounds.longest, tokens / bounds.shortest],
    'warnings': _warnings(compiled, bounds) + _too_large(held, hardware, largest),
    'findings': compiled['findings'],
  }


def _warnings(compiled: Mapping[str, Any], bounds: Any) -> list[str]:
  """Names what a person would want to change."""
  said = [one['sentence'] for one in compiled['findings']] + list(compiled['resharded'])
  ratio = compiled['compiled_flops'] / compiled['useful_flops']
  if ratio > 2:
    said.append(f'{ratio:.1f} times the useful products are computed')
  if bounds.network > bounds.products:
    said.append('what is sent between hosts takes longer than all products')
  elif bounds.links > bounds.products:
    said.append('what is sent within hosts takes longer than all products')
  return said


def _too_large(held: float, hardware: Hardware, largest: int) -> list[str]:
  """Says what would fit, where the batch does not."""
  room = hardware.memory_gb * 1e9
  if held <= room:
    return []
  said = f'{held / _GIB:.1f} GiB do not fit in {room / _GIB:.1f}'
  if largest:
    return [f'{said}; the largest batch that does, by the estimate: {largest} rows']
  return [f'{said}, whatever the batch']


def _sent(found: Row) -> str:
  """Says which axes carry how many GiB, the most first."""
  by_axes: dict[str, float] = {}
  for one in found['collectives']:
    axes = '+'.join(one['axes'])
    by_axes[axes] = by_axes.get(axes, 0.0) + one['wire_bytes']
  most = sorted(by_axes.items(), key=lambda item: -item[1])[:3]
  return ', '.join(f'{axes} {size / _GIB:.2f}' for axes, size in most if size > _GIB / 1000)


HEAD = (
  'mesh', 'hardware', 'rows', 'state', 'temporaries', 'fits', 'largest batch', 'sent along',
  'compiled / useful', 'ms at least', 'tokens/s of a device',
)  # fmt: skip


MEASURED_HEAD = ('ms measured', 'over the baseline', 'verdict')


def _head(rows: Sequence[Row]) -> tuple[str, ...]:
  """Returns the columns; times only where some were measured."""
  if any('measured' in found for found in rows):
    return HEAD + MEASURED_HEAD
  return HEAD


def _cells(found: Row) -> list[str]:
  if 'error' in found:
    return [found['mesh'], found['hardware'], found['error']]
  if 'roofline' not in found:  # the control, which nobody compiled for a target
    first = [found['mesh'], found['hardware'], f'{found["repeats"]} again']
    return first + [''] * (len(HEAD) - 3) + _measured_cells(found)
  return _compiled_cells(found) + _measured_cells(found)


def _measured_cells(found: Row) -> list[str]:
  """Returns the cells of `MEASURED_HEAD`; none where nothing was to be measured."""
  if 'measured' not in found:
    return []
  measured = found['measured']
  if 'seconds' not in measured:
    return ['', '', measured['error']]
  over = measured.get('over_baseline')
  difference = ''
  if over is not None:
    difference = f'{over["mean"]:+.1%} [{over["low"]:+.1%}, {over["high"]:+.1%}]'
  verdict = measured.get('error') or measured.get('verdict', '')
  return [f'{measured["seconds"] * 1e3:.4g}', difference, verdict]


def _compiled_cells(found: Row) -> list[str]:
  bounds = found['roofline']
  slow, fast = found['tokens_per_second_of_device']
  return [
    found['mesh'],
    found['hardware'],
    f'{found["rows"]} x {found["row_length"]}',
    f'{found["state"] / _GIB:.2f}',
    f'{found["temporaries"] / _GIB:.2f}',
    'yes' if found['fits'] else 'no',
    str(found['largest_batch']),
    _sent(found),
    f'{found["compiled_over_useful"]:.2f}',
    f'{bounds["shortest"] * 1e3:.3g} to {bounds["longest"] * 1e3:.3g}',
    f'{slow:.3g} to {fast:.3g}',
  ]


def order(rows: Sequence[Row]) -> list[Row]:
  """Sorts rows: by hardware, those that fit first, then by the longest time; refusals last.

  Meshes that were left out are none of them.
  """

  def key(found: Row) -> tuple:
    if 'error' in found:
      return (found['hardware'], 2, 0.0)
    if 'roofline' not in found:
      return (found['hardware'], 3, 0.0)
    return (found['hardware'], 0 if found['fits'] else 1, found['roofline']['longest'])

  return sorted((found for found in rows if 'left_out' not in found), key=key)


def notes(rows: Sequence[Row]) -> list[str]:
  """Writes what stands below the table.

  Args:
    rows: of `row`, of `measured.add`, and meshes that were left out.

  Returns:
    A line for each warning, each measurement and each mesh that was left out.
  """
  lines = []
  for found in order(rows):
    named = f'{found["mesh"]} on {found["hardware"]}'
    lines += [f'{named}: {warning}' for warning in found.get('warnings', ())]
  for found in rows:
    if 'repeats' in found:
      lines += _of_measurement(found)
  suggested = [found for found in order(rows) if 'gin' in found]
  if suggested:
    best = suggested[0]
    lines.append(f'mesh file of {best["mesh"]} (--json has all):\n{best["gin"].rstrip()}')
  for found in rows:
    if 'left_out' in found:
      lines.append(f'left out for {found["hardware"]}: {found["mesh"]}: {found["left_out"]}')
  return lines


def _of_measurement(control: Row) -> list[str]:
  """Says how it was measured, how far equal arms differ and whether the order was predicted."""
  measured = control['measured']
  lines = [
    f'measured for {control["hardware"]} on {measured["devices"] or "no device"}, in turns, '
    f'{measured["steps"]} steps a round, {len(measured["round_seconds"])} rounds; the control runs '
    f'{control["repeats"]} again'
  ]
  if 'spread' in control:
    lines[0] += f', and its spread is {control["spread"]:.1%}'
  found = control.get('rank_correlation')
  if found is not None:
    lines.append(
      f"predicted and measured order: Kendall's tau {found['tau']:.2f} (p = {found['p']:.2g}) of "
      f'{found["meshes"]} meshes, predicted by the geometric middle of ms at least'
    )
  return lines


def text(rows: Sequence[Row]) -> str:
  """Writes the table.

  Args:
    rows: of `row`.

  Returns:
    A table of Markdown, GiB per device, and the notes below it.
  """
  head = _head(rows)
  lines = [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
  for found in order(rows):
    cells = _cells(found)
    cells += [''] * (len(head) - len(cells))
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join([*lines, *notes(rows)])


def html(rows: Sequence[Row], command: str) -> str:
  """Writes the page.

  Args:
    rows: of `row`.
    command: that made them.

  Returns:
    A page that needs nothing beside it.
  """
  template = pathlib.Path(__file__).with_name('comparison.html.jinja')
  environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
  ordered = order(rows)
  return environment.from_string(template.read_text()).render(
    head=_head(rows),
    rows=[_cells(found) for found in ordered],
    notes=notes(rows),
    refused=['error' in found for found in ordered],
    command=command,
    plot=_plot([found for found in ordered if 'roofline' in found]),
  )


def _plot(rows: Sequence[Row]) -> str:
  """Draws time against memory, as SVG; the best lie at the lower left, a dot is measured."""
  figure = matplotlib.figure.Figure(figsize=(8, 4.5), layout='constrained')
  axes = figure.subplots()
  for found in rows:
    bounds = found['roofline']
    memory = (found['state'] + found['temporaries']) / _GIB
    times = [bounds['shortest'] * 1e3, bounds['longest'] * 1e3]
    axes.plot(times, [memory, memory], marker='|', color='tab:blue' if found['fits'] else 'tab:red')
    if 'seconds' in found.get('measured', {}):
      axes.plot(found['measured']['seconds'] * 1e3, memory, marker='o', color='tab:green')
    axes.annotate(f'{found["mesh"]}, {found["hardware"]}', (times[1], memory), fontsize=8)
  axes.set_xlabel('milliseconds of a step, at least: everything overlaps to nothing does')
  axes.set_ylabel('GiB on each device')
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg')
  drawn = buffer.getvalue()
  return drawn[drawn.index('<svg') :]
