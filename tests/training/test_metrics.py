"""Each step is logged once, also where it was taken twice."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aevo_jax.training.metrics import MetricsWriter


def logged(directory) -> list[tuple[int, float]]:
  rows = [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]
  return [(row['step'], row['loss']) for row in rows]


def on_the_board(directory) -> list[tuple[int, float]]:
  board = EventAccumulator(str(directory / 'tensorboard'))
  board.Reload()
  return [(e.step, float(e.tensor_proto.float_val[0])) for e in board.Tensors('loss')]


def run(directory, steps, loss, first_step=0):
  with MetricsWriter(directory, first_step) as metrics:
    for step in steps:
      metrics.write(step, {'loss': loss})


@pytest.mark.parametrize(
  'first_step', [0, 2, 5], ids=['before any checkpoint', 'at one', 'after the last step']
)
def test_what_a_killed_run_logged_after_its_checkpoint_is_dropped(tmp_path, first_step):
  run(tmp_path, range(5), 1.0)
  run(tmp_path, range(first_step, 7), 2.0, first_step)
  expected = [(step, 1.0 if step < first_step else 2.0) for step in range(7)]
  assert logged(tmp_path) == expected == on_the_board(tmp_path)


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
  run(tmp_path, range(3), 1.0)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 3, "lo')
  run(tmp_path, [3], 2.0, 3)
  assert logged(tmp_path) == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)] == on_the_board(tmp_path)


def test_a_run_that_was_resumed_twice_has_its_values_that_are_not_finite(tmp_path):
  run(tmp_path, range(2), math.inf)
  run(tmp_path, range(1, 3), 1.0, 1)
  run(tmp_path, range(2, 4), 2.0, 2)
  assert logged(tmp_path) == [(0, 'inf'), (1, 1.0), (2, 2.0), (3, 2.0)]
  assert on_the_board(tmp_path) == [(0, math.inf), (1, 1.0), (2, 2.0), (3, 2.0)]
