"""Runs the commands that README.md and docs/*.md show, as they are written.

  python tools/docs_commands.py                        every page (make docs-check)
  python tools/docs_commands.py README.md docs/campaigns.md
  python tools/docs_commands.py --list                 what would run, and what would not

A page shows a command in a fenced block of kind `console`, behind `$ `:

    ```console
    $ aevo audit runs/mine
    ...
    24 checks, none failed
    ```

Lines below a command are the end of its output; `...` stands for any text. `# exit status 3` behind
a command is the status that it must end with, 0 if nothing is said. A block that cannot run here
says why in its first line: ```console needs="a Slurm cluster"```.

The commands of a page run in order, in a directory of their own that looks like a fresh checkout.
Nothing is changed but the environment: the project's programs are on PATH, and AEVO_CAPS lowers the
budgets of campaigns.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CAPS = (
  'budget.rounds=1 budget.workers=2 budget.noise_seeds=2 budget.final_seeds=1'
  ' budget.trial_tokens=8192 budget.trial_steps=8 release.per_round=2'
  ' dev_set.items=60 external_set.items=60 final_set.items=60 probes.order=60'
)
TIMEOUT_SECONDS = 3600
# Run by whoever runs this: the test suite would start itself.
RUN_ELSEWHERE = ('make test', 'make test-fast', 'make docs-check', 'make clean', '.ci/run')

# By these a make that runs this tells one that a page starts to be its child, and to talk as one.
OF_MAKE = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL')

# A need that is met where a file is there.
MET_BY = {
  'make vllm': ROOT / 'third_party' / 'vllm' / '.venv' / 'bin' / 'python',
  'make targets': ROOT / 'third_party' / 'targets' / '.venv' / 'bin' / 'python',
}

_FENCE = re.compile(r'^```console(?P<attributes>.*)$')
_NEEDS = re.compile(r'needs="([^"]+)"')
_STATUS = re.compile(r'#.*\bexit status (\d+)')


@dataclasses.dataclass(frozen=True)
class Command:
  """One command of a page.

  Attributes:
    page: path below the checkout.
    line: where it stands in the page, from 1.
    text: as it is typed, without the prompt.
    output: the end of the expected output; empty where the page shows none.
    status: expected exit status.
    needs: why it cannot run here; empty where it can.
  """

  page: str
  line: int
  text: str
  output: str
  status: int
  needs: str


def read_page(text: str, page: str) -> list[Command]:
  """Parses the `console` blocks of a page.

  Args:
    text: Markdown.
    page: its name in what is returned.

  Returns:
    The commands in order.
  """
  commands: list[Command] = []
  lines = text.splitlines()
  number = 0
  while number < len(lines):
    fence = _FENCE.match(lines[number])
    number += 1
    if fence is None:
      continue
    needs = _NEEDS.search(fence['attributes'])
    start = number
    while number < len(lines) and not lines[number].startswith('```'):
      number += 1
    reason = needs[1] if needs else ''
    commands.extend(_read_block(lines[start:number], page, start + 1, reason))
  return commands


def _read_block(lines: list[str], page: str, first: int, needs: str) -> list[Command]:
  """Parses the lines of one block; `first` is the number of its first line."""
  commands: list[Command] = []
  offset = 0
  while offset < len(lines):
    line = lines[offset]
    if not line.startswith('$ '):
      raise ValueError(f'{page}:{first + offset}: expected a command behind `$ `, got {line!r}')
    begin = offset
    text = line.removeprefix('$ ')
    while text.endswith('\\'):
      offset += 1
      text = f'{text}\n{lines[offset]}'
    offset += 1
    output = []
    while offset < len(lines) and not lines[offset].startswith('$ '):
      output.append(lines[offset])
      offset += 1
    status = _STATUS.search(text)
    expected = int(status[1]) if status else 0
    shown = '\n'.join(output).strip()
    commands.append(Command(page, first + begin, text, shown, expected, needs))
  return commands


def matches(expected: str, output: str) -> bool:
  """Whether an output ends with the expected lines, where `...` stands for any text."""
  pattern = r'.*?'.join(re.escape(part) for part in expected.split('...'))
  return re.search(rf'(^|\n){pattern}\s*\Z', output, re.DOTALL) is not None


def make_checkout(directory: pathlib.Path) -> None:
  """Fills a directory with links to the checkout's files, but for what commands write."""
  for path in ROOT.iterdir():
    if path.name not in ('runs', '.git', '.aevo'):
      (directory / path.name).symlink_to(path)
  (directory / 'runs').mkdir()


def environment(scratch: pathlib.Path) -> dict[str, str]:
  """Returns the environment of a command: programs on PATH, budgets capped."""
  programs = f'{ROOT / ".venv" / "bin"}{os.pathsep}{os.environ["PATH"]}'
  changes = {
    'PATH': programs,
    'PYTHONPATH': str(ROOT),
    'AEVO_CAPS': CAPS,
    'AEVO_ARBITER_HOME': str(scratch / 'arbiter'),
  }
  kept = dict(os.environ)
  for name in OF_MAKE:
    kept.pop(name, None)
  return kept | changes


def run(command: Command, checkout: pathlib.Path, variables: dict[str, str]) -> str:
  """Runs one command with bash.

  Args:
    command: what to run.
    checkout: the working directory; a command of make runs in the real checkout, whose environment
      it checks.
    variables: the environment.

  Returns:
    What is wrong with how it ended; empty if nothing is.
  """
  directory = checkout
  if command.text.startswith('make '):
    directory = ROOT
  try:
    done = subprocess.run(
      ['bash', '-c', command.text],
      cwd=directory,
      env=variables,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=TIMEOUT_SECONDS,
    )
  except subprocess.TimeoutExpired:
    return f'no end within {TIMEOUT_SECONDS} seconds'
  tail = '\n'.join(done.stdout.splitlines()[-15:])
  if done.returncode != command.status:
    return f'exit status {done.returncode}, the page says {command.status}; its last lines:\n{tail}'
  if command.output and not matches(command.output, done.stdout):
    return f'the output does not end as the page shows:\n{command.output}\n--- but:\n{tail}'
  return ''


def run_page(page: str, commands: list[Command]) -> int:
  """Runs the commands of a page in order and prints a line for each; returns how many failed."""
  failures = 0
  with tempfile.TemporaryDirectory(prefix='aevo_docs_') as name:
    scratch = pathlib.Path(name)
    checkout = scratch / 'aevo_jax'
    checkout.mkdir()
    make_checkout(checkout)
    variables = environment(scratch)
    for command in commands:
      place = f'{page}:{command.line}'
      met = command.needs in MET_BY and MET_BY[command.needs].exists()
      if (command.needs and not met) or command.text.split('#')[0].strip() in RUN_ELSEWHERE:
        print(f'not run  {place}  {command.text}  ({command.needs or "runs by itself"})')
        continue
      started = time.monotonic()
      problem = run(command, checkout, variables)
      seconds = time.monotonic() - started
      failures += bool(problem)
      print(f'{"FAILED" if problem else "ok":<8} {place}  {command.text}  ({seconds:.0f} s)')
      if problem:
        print(problem)
      sys.stdout.flush()
  return failures


def main() -> int:
  """Runs pages; returns 1 if a command failed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('pages', nargs='*', help='pages below the checkout; all if none is given')
  parser.add_argument('--list', action='store_true', help='print the commands and stop')
  options = parser.parse_args()
  every_page = [
    'README.md',
    *(f'docs/{path.name}' for path in sorted((ROOT / 'docs').glob('*.md'))),
  ]
  failures = 0
  for page in options.pages or every_page:
    commands = read_page((ROOT / page).read_text(encoding='utf-8'), page)
    if options.list:
      for command in commands:
        print(f'{page}:{command.line}  {command.text}  {command.needs}')
    elif commands:
      failures += run_page(page, commands)
  if not options.list:
    print(f'{failures} commands failed' if failures else 'every command ended as its page shows')
  return 1 if failures else 0


if __name__ == '__main__':
  sys.exit(main())
