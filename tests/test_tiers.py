"""tests/tiers/ names tests that exist."""

import pathlib
import re
import subprocess
import sys

TIERS = pathlib.Path(__file__).parent / 'tiers'
ROOT = pathlib.Path(__file__).parents[1]


def test_every_row_of_heavy_is_a_test_function():
  for row in (TIERS / 'heavy.txt').read_text().splitlines():
    file, name = row.split('::')
    assert re.search(rf'^def {name}\(', (ROOT / file).read_text(), re.MULTILINE), row


def collected(*arguments: str) -> set[str]:
  """Ids of the long tests that pytest would run."""
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', '--collect-only', '-q', '-p', 'no:cacheprovider', *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return {line for line in done.stdout.splitlines() if '::' in line}


def rows_of_long() -> list[str]:
  return (TIERS / 'long.txt').read_text().splitlines()


def collected_of_their_files(*arguments: str) -> set[str]:
  files = {row.partition('::')[0] for row in rows_of_long()}
  return collected('-m', 'long', *arguments, *sorted(files))


def test_every_row_of_long_is_collected():
  long = collected_of_their_files()
  assert set(rows_of_long()) <= long | {test.partition('::')[0] for test in long}


def test_the_parts_of_the_long_tests_are_the_whole():
  first, second = (collected_of_their_files(f'--long_part={part}/2') for part in range(2))
  assert first and second and not first & second
  assert set(rows_of_long()) <= first | second | {t.partition('::')[0] for t in first | second}
