"""Metrics of a run: one JSON object a line in metrics.jsonl, and the same scalars for TensorBoard."""

import json
import math
import pathlib
from collections.abc import Mapping

from tensorboard.summary import Writer


class MetricsWriter:
  """Appends scalars by step. Use as a context manager; every line is flushed, so a killed run keeps
  what it logged.
  """

  def __init__(self, directory: pathlib.Path):
    directory.mkdir(parents=True, exist_ok=True)
    self._lines = (directory / 'metrics.jsonl').open('a')
    self._board = Writer(str(directory / 'tensorboard'))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs finite scalars of one step; a value that is not finite is logged as text, which JSON can
    hold.
    """
    self._lines.write(
      json.dumps(
        {'step': step} | {k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}
      )
      + '\n'
    )
    self._lines.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, *exc) -> None:
    self._lines.close()
    self._board.close()
