"""Command-line arguments of the server processes."""

import argparse
import pathlib


def parser(description: str) -> argparse.ArgumentParser:
  """Creates the parser of the arguments that evaluator and arbiter share.

  Args:
    description: what the process does.

  Returns:
    A parser, to which a process may add arguments.
  """
  shared = argparse.ArgumentParser(description=description)
  shared.add_argument(
    '--base', required=True, type=pathlib.Path, help='directory with config.json and tokenizer.json'
  )
  shared.add_argument('--constitution', required=True, type=pathlib.Path)
  shared.add_argument('--threads', type=int, default=1)
  shared.add_argument('--cache', default='')
  return shared
