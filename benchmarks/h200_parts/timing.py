"""How the parts of h200.py take times, and what they say of the device's memory."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax


def seconds(function: Callable[[], Any], *, calls: int = 8, warm: int = 2) -> float:
  """Median seconds of a call, which is waited for."""
  for _ in range(warm):
    jax.block_until_ready(function())
  times = []
  for _ in range(calls):
    started = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - started)
  return statistics.median(times)


def attempt(case: str, measure: Callable[[], dict]) -> Iterator[dict]:
  """Yields a case's row; one that fails says how, and the next one is tried."""
  try:
    yield {'case': case} | measure()
  except Exception as error:
    message = f'{type(error).__name__}: {error}'
    yield {'case': case, 'error': message[:400]}


def peak_gib() -> float | None:
  """The most memory that the process has taken of the device, where the backend counts it."""
  stats = jax.devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return None if peak is None else round(peak / 2**30, 3)


def limit_bytes() -> float:
  """What a program may take of the device."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get('bytes_limit', float('inf'))
