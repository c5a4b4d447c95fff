"""The model and the data that every peer is given, in numpy and the standard library alone.

So that each environment can import it.

A Qwen3 of 3.7 million parameters, and sequences from a Zipf distribution over its vocabulary; seeds
make them the same for all.
"""

import json
import queue
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

MODEL = {
  'vocab_size': 2048,
  'hidden_size': 256,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 64,
  'intermediate_size': 768,
  'rope_theta': 1e6,
  'rms_norm_eps': 1e-6,
  'tie_word_embeddings': True,
  'max_position_embeddings': 1024,
}
ROWS, LENGTH, MEAN = 8, 256, 96  # of a training step; mean of ragged sequences
PROMPTS, GROUP, PROMPT, COMPLETION = 8, 8, 192, 64  # of sampling and of a step of GRPO
EOS, PAD = 2, 0


def sequence(index: int, ragged: bool) -> np.ndarray:
  """Tokens of training sequence `index`: LENGTH of them, or about MEAN and LENGTH at most."""
  rng = np.random.default_rng([1, index])
  n = int(np.clip(rng.gamma(2.0, MEAN / 2), 8, LENGTH)) if ragged else LENGTH
  return 3 + np.minimum(rng.zipf(1.3, n), MODEL['vocab_size'] - 4) - 1


def prompt(index: int) -> list[int]:
  rng = np.random.default_rng([2, index])
  return (3 + np.minimum(rng.zipf(1.3, PROMPT), MODEL['vocab_size'] - 4) - 1).tolist()


class Turnstile:
  """Lets a trainer's own loop, in a thread of its own, go on step by step."""

  def __init__(self):
    self._go, self._done = queue.Queue(), queue.Queue()

  def enter(self) -> None:
    self._go.get()

  def leave(self) -> None:
    self._done.put(None)

  def start(self, loop: Callable[[], None]) -> None:
    def report():
      try:
        loop()
      except BaseException as error:
        self._done.put(error)

    threading.Thread(target=report, daemon=True).start()

  def step(self) -> None:
    self._go.put(None)
    error = self._done.get()
    if error is not None:
      raise error


def serve(make: Callable[[dict], Callable[[], dict]]) -> None:
  """Reads {'workload': ..., options} once, then {'repeats'.

  N} a line; answers each with what n calls took and the sums of what they returned.
  """
  run = make(json.loads(sys.stdin.readline()))
  print(json.dumps({'ready': True}), flush=True)
  for line in sys.stdin:
    asked, sums = json.loads(line), {}
    started = time.perf_counter()
    for _ in range(asked['repeats']):
      for name, value in run().items():
        sums[name] = sums.get(name, 0.0) + value
    print(json.dumps({'seconds': time.perf_counter() - started} | sums), flush=True)
