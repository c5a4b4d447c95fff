"""The log of rollouts: a batch that is read back is the batch that was trained on, bit for bit."""

import dataclasses
import json
import pathlib

import numpy as np

from aevo_jax.training.rl.rollouts.rollouts import Batch, Sample

IN_ARRAYS = ('tokens', 'turns', 'logprobs')  # fields of a sample that no line repeats


def write(path: pathlib.Path, batch: Batch) -> None:
  """Writes a batch as two files, which are renamed into place, the lines last.

  Args:
    path: without suffix. `path`.npz gets the arrays; `path`.jsonl gets a line of facts and a line
      for each sample, to be read by people.
    batch: with all its arrays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps(batch.facts)]
  for sample in batch.samples:
    record = dataclasses.asdict(sample)
    for name in IN_ARRAYS:
      del record[name]
    lines.append(json.dumps(record))
  arrays_file = path.with_name(f'.{path.name}.npz')
  lines_file = path.with_name(f'.{path.name}.jsonl')
  np.savez_compressed(arrays_file, allow_pickle=True, **batch.arrays)
  lines_file.write_text('\n'.join(lines) + '\n')
  for file in (arrays_file, lines_file):
    file.rename(path.with_suffix(file.suffix))


def exists(path: pathlib.Path) -> bool:
  """Whether a batch was written.

  Args:
    path: as `write` was given it.
  """
  return path.with_suffix('.jsonl').exists()


def read(path: pathlib.Path) -> Batch:
  """Reads a batch.

  Args:
    path: as `write` was given it.

  Returns:
    What was written.

  Raises:
    FileNotFoundError: there is no such log.
  """
  facts, *lines = [json.loads(line) for line in path.with_suffix('.jsonl').read_text().splitlines()]
  with np.load(path.with_suffix('.npz')) as file:
    arrays = dict(file)
  samples = []
  for row, line in enumerate(lines):
    length = int((arrays['segment_ids'][row] > 0).sum())
    fields = {
      'rewards': tuple(line['rewards']),
      'digests': tuple(line['digests']),
      'tokens': tuple(arrays['tokens'][row, :length].tolist()),
      'turns': tuple(arrays['turns'][row, :length].tolist()),
      'logprobs': tuple(arrays['sampler_logprobs'][row, :length].tolist()),
    }
    samples.append(Sample(**line | fields))
  return Batch(tuple(samples), arrays, facts)
