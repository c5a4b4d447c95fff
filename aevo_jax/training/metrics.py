"""Metrics of a run: a JSON object a line in metrics.jsonl, and the same scalars for TensorBoard."""

import json
import math
import pathlib
from collections.abc import Mapping

from tensorboard.summary import Writer


class MetricsWriter:
  """Appends scalars by step. Use it as a context manager.

  Every line is flushed, so a killed run keeps what it logged.
  """

  def __init__(self, directory: pathlib.Path):
    directory.mkdir(parents=True, exist_ok=True)
    self._lines = (directory / 'metrics.jsonl').open('a')
    self._board = Writer(str(directory / 'tensorboard'))

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
