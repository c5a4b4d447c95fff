"""Metrics of a run: a JSON object a line in metrics.jsonl, and the same scalars for TensorBoard."""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping

from tensorboard.summary import Writer

FILE = 'metrics.jsonl'
BOARD = 'tensorboard'


class MetricsWriter:
  """Appends scalars by step. Use it as a context manager.

  Every line is flushed, so a killed run keeps what it logged. Steps that are taken again are logged
  once: a run that goes on from a checkpoint forgets what it logged after it.
  """

  def __init__(self, directory: pathlib.Path, first_step: int = 0):
    """Opens the files.

    Args:
      directory: of the run.
      first_step: that will be logged; what stands there of this and later steps is dropped.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE
    kept, all_of_it = _rows_before(path, first_step)
    if not all_of_it:
      _replace(path, kept)
      shutil.rmtree(directory / BOARD, ignore_errors=True)
    self._lines = path.open('a')
    self._board = Writer(str(directory / BOARD))
    if not all_of_it:
      for row in kept:
        step = row.pop('step')
        for name, value in row.items():
          self._board.add_scalar(name, float(value), step)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs the scalars of one step.

    Args:
      step: its number, from 0 on.
      scalars: by name. A value that is not finite becomes text in the JSON, which can hold no
        other.
    """
    row: dict[str, float | str] = {'step': step}
    for name, value in scalars.items():
      row[name] = value if math.isfinite(value) else str(value)
    self._lines.write(json.dumps(row) + '\n')
    self._lines.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, *exc) -> None:
    self._lines.close()
    self._board.close()


def _rows_before(path: pathlib.Path, first_step: int) -> tuple[list[dict], bool]:
  """Reads the rows before a step, and tells whether they are all that the file holds."""
  if not path.exists():
    return [], True
  rows = []
  lines = path.read_text().splitlines()
  for line in lines:
    try:
      row = json.loads(line)
    except ValueError:
      continue  # cut off by a kill
    if row['step'] < first_step:
      rows.append(row)
  return rows, len(rows) == len(lines)


def _replace(path: pathlib.Path, rows: list[dict]) -> None:
  temporary = path.with_name(f'.{path.name}.new')
  temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  os.replace(temporary, path)
