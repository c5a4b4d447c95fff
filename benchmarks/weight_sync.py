"""Handing the trainer's weights to the in-process sampler.

Seconds, and bytes that were copied (C12).

.venv/bin/python benchmarks/weight_sync.py
"""

import time

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()

import numpy as np

from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind


def main() -> None:
  structure, params = unbind(create(ModelConfig(hidden_size=512, intermediate_size=2048), seed=0))
  engine, seconds = Engine(structure, eos_ids=[0], pad_id=0, slots=2), []
  for version in range(50):
    fresh = {name: value + 1 for name, value in params.items()}
    addresses = {name: value.unsafe_buffer_pointer() for name, value in fresh.items()}
    started = time.perf_counter()
    engine.update(fresh, version)
    seconds.append(time.perf_counter() - started)
    assert engine.generate([Request((1, 2))], Sampling(max_new_tokens=1))[0].version == version
  copied = sum(
    value.nbytes
    for name, value in engine._params.items()
    if value.unsafe_buffer_pointer() != addresses[name]
  )
  print(
    f'{len(seconds)} updates of {sum(v.nbytes for v in params.values()) / 1e6:.0f} MB: '
    f'median {np.median(seconds) * 1e6:.1f} us, worst {max(seconds) * 1e6:.0f} us, '
    f'{copied} bytes copied'
  )


if __name__ == '__main__':
  main()
