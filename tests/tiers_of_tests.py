"""What tests/tiers/ says of a test: heavy, long, and in which part of the long ones it is.

heavy.txt names test functions, long.txt ids of tests or whole files.
"""

import functools
import pathlib
from collections.abc import Iterable

import pytest

ALL = pytest.StashKey[list[str]]()  # of pytest's config: the ids of all tests, selected or not
DIRECTORY = pathlib.Path(__file__).parent / 'tiers'


@functools.cache
def rows(tier: str) -> tuple[str, ...]:
  """The rows of a tier's file."""
  return tuple((DIRECTORY / f'{tier}.txt').read_text().splitlines())


def file_of(test: str) -> str:
  return test.partition('::')[0]


def is_heavy(test: str) -> bool:
  """Whether heavy.txt has the test's function."""
  return test.partition('[')[0] in rows('heavy')


def row_of_long(test: str) -> int | None:
  """The row of long.txt that has the test or its file."""
  names = (test, file_of(test))
  return next((number for number, row in enumerate(rows('long')) if row in names), None)


def is_in_part(row: int, part: str) -> bool:
  """Whether a row belongs to part 'K/N': the K-th (from 0) and every N-th after it; '' is all."""
  number, _, parts = part.partition('/')
  return not part or row % int(parts) == int(number)


def rows_without_test(tests: Iterable[str]) -> list[str]:
  """The rows of long.txt that name none of these tests."""
  names = {name for test in tests for name in (test, file_of(test))}
  return sorted(set(rows('long')) - names)
