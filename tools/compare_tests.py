"""Says which tests of an earlier checkout are gone, by name.

  python -m pytest --collect-only -q -m "" > before.txt      in the earlier checkout
  python -m pytest --collect-only -q -m "" > after.txt       in this one
  python tools/compare_tests.py before.txt after.txt --renames=tools/test_renames.txt

A test may have moved to another file: only function name and parameters count. A line of the
renames file is `old_name new_name`, for a function that has another name now, or `old_name -` with
the reason behind `#` for one whose subject is gone. The exit status is 1 if a test is missing.
"""

import argparse
import collections
import pathlib
import sys


def names(text: str) -> collections.Counter[str]:
  """Counts the tests of a collection by function and parameters, whatever their file."""
  counts: collections.Counter[str] = collections.Counter()
  for line in text.splitlines():
    file, separator, name = line.partition('::')
    if separator and file.endswith('.py'):
      counts[name] += 1
  return counts


def function(name: str) -> str:
  """Returns the function's name, without parameters."""
  return name.partition('[')[0]


def read_renames(text: str) -> dict[str, str]:
  """Reads the renames: old function or test name -> new one, '' where its subject is gone."""
  renames = {}
  for line in text.splitlines():
    old, _, new = line.partition('#')[0].strip().partition(' ')
    if old:
      renames[old] = new.strip().removeprefix('-')
  return renames


def missing(
  before: collections.Counter[str], after: collections.Counter[str], renames: dict[str, str]
) -> list[str]:
  """Lists tests that were there and are not.

  Args:
    before: counts of the earlier checkout.
    after: counts of this one.
    renames: see `read_renames`.

  Returns:
    A line for each missing test: its name, and how many of it there were and are.
  """
  functions_after = {function(name) for name in after}
  lines = []
  for name, count in sorted(before.items()):
    present = after[name]
    renamed = renames.get(name, renames.get(function(name)))
    if renamed is not None and (renamed == '' or function(renamed) in functions_after):
      continue
    if present < count:
      lines.append(f'{name}  (was there {count} times, is {present})')
  return lines


def main() -> int:
  """Prints the missing tests; returns 1 if there are any."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('before', type=pathlib.Path)
  parser.add_argument('after', type=pathlib.Path)
  parser.add_argument('--renames', type=pathlib.Path)
  options = parser.parse_args()
  renames = {}
  if options.renames:
    renames = read_renames(options.renames.read_text())
  before = names(options.before.read_text())
  after = names(options.after.read_text())
  lines = missing(before, after, renames)
  for line in lines:
    print(line)
  print(
    f'{before.total()} tests before, {after.total()} now, {len(lines)} missing, '
    f'{len(renames)} renames known'
  )
  return int(bool(lines))


if __name__ == '__main__':
  sys.exit(main())
