"""tests/tiers/ names tests that exist, and its parts are the whole."""

import pathlib
import re

import pytest
import tiers_of_tests as tiers

ROOT = pathlib.Path(__file__).parents[1]


def test_every_row_of_heavy_is_a_test_function():
  for row in tiers.rows('heavy'):
    file, name = row.split('::')
    assert re.search(rf'^def {name}\(', (ROOT / file).read_text(), re.MULTILINE), row


def test_every_row_of_long_is_a_test(request):
  tests = request.config.stash.get(tiers.ALL, None)
  if tests is None:
    pytest.skip('only where all tests are collected')
  assert tiers.rows_without_test(tests) == []


def test_a_row_of_long_that_names_no_test_is_found():
  there = tiers.rows('long')
  assert tiers.rows_without_test(there) == []
  assert tiers.rows_without_test(there[1:]) == [there[0]]
  file = next(row for row in there if '::' not in row)
  assert file not in tiers.rows_without_test([f'{file}::test_one'])


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_the_parts_of_the_long_tests_are_the_whole(parts):
  rows = range(len(tiers.rows('long')))
  shares = [[row for row in rows if tiers.is_in_part(row, f'{k}/{parts}')] for k in range(parts)]
  assert sorted(row for share in shares for row in share) == list(rows)
  assert all(shares) and all(tiers.is_in_part(row, '') for row in rows)
