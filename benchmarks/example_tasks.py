"""Writes configs/tasks/example.jsonl, the tasks of configs/campaigns/own_data.gin.

Four families of facts about numbers, a few hundred lines.

  python benchmarks/example_tasks.py             tests/tasks/test_own_data.py compares the committed
  file with what this gives

Their words and digits are in the micro base's vocabulary, and short enough for its rows.
"""

import json
import pathlib
import random

FILE = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'tasks' / 'example.jsonl'
LINES, SEED = 800, 20261122


def _sum(rng: random.Random) -> dict[str, str]:
  a, b = rng.randint(10, 99), rng.randint(10, 99)
  tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
  return {
    'prompt': f'What is {a} plus {b}?',
    'answer': str(a + b),
    'family': 'sums',
    'solution': f'{tens}+{ones}',
  }


def _difference(rng: random.Random) -> dict[str, str]:
  a, b = rng.randint(10, 99), rng.randint(10, 99)
  return {
    'prompt': f'What is the difference of {a} and {b}?',
    'answer': str(abs(a - b)),
    'family': 'differences',
    'solution': f'abs {a}-{b}',
  }


def _reversal(rng: random.Random) -> dict[str, str]:
  number = rng.randint(100, 999)
  return {
    'prompt': f'Write {number} backwards.',
    'answer': str(number)[::-1],
    'family': 'reversals',
  }


def _larger(rng: random.Random) -> dict[str, str]:
  a, b = rng.sample(range(10, 100), 2)
  return {'prompt': f'Which is larger, {a} or {b}?', 'answer': str(max(a, b)), 'family': 'larger'}


def text() -> str:
  """The file's content: different prompts, the families in turn."""
  rng, lines = random.Random(SEED), {}
  while len(lines) < LINES:
    task = (_sum, _difference, _reversal, _larger)[len(lines) % 4](rng)
    lines.setdefault(task['prompt'], json.dumps(task) + '\n')
  return ''.join(lines.values())


if __name__ == '__main__':
  FILE.parent.mkdir(exist_ok=True)
  FILE.write_text(text())
