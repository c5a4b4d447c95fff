"""Writes docs/vllm_measured.md.

What was measured of vLLM, from the results of vllm_sync.py, vllm_parity.py, vllm_grpo.py, versus.py
and the tests' report.

.venv/bin/python benchmarks/vllm_table.py [--tests=REPORT.xml]     --tests: pytest's report of tests
against real servers, kept in benchmarks/results/vllm_tests.json
"""

import argparse
import datetime
import json
import pathlib
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import versus
import vllm_grpo
import vllm_parity
import vllm_sync

from aevo_jax import layout

RESULTS = pathlib.Path(__file__).parent / 'results'
OUT = layout.root_file('constitution.gin').parent / 'docs' / 'vllm_measured.md'
FAULTS = 'test_vllm_faults'


def tests(report: pathlib.Path) -> dict[str, Any]:
  """Every test of pytest's report: its file, name, result, seconds, and what it said it came to."""
  suite = next(ElementTree.parse(report).getroot().iter('testsuite'))
  rows = [
    {
      'file': case.get('classname', '').rpartition('.')[2],
      'name': case.get('name'),
      'seconds': float(case.get('time')),
      'result': next((e.tag for e in case if e.tag in ('failure', 'error', 'skipped')), 'passed'),
      'outcome': next(
        (p.get('value') for p in case.iter('property') if p.get('name') == 'outcome'), ''
      ),
    }
    for case in suite.iter('testcase')
  ]
  return {
    'date': datetime.datetime.fromisoformat(suite.get('timestamp')).strftime('%Y-%m-%d'),
    'seconds': float(suite.get('time')),
    'rows': rows,
  }


def faults(found: dict[str, Any]) -> str:
  rows = [r for r in found['rows'] if r['file'] == FAULTS]
  named = re.compile(r'test_(\w+)\[(.*)-nemotron_h\]')
  lines = [
    f'{sum(r["result"] == "passed" for r in rows)} of {len(rows)} faults ended as they '
    'must: the same answers as of an undisturbed server, or none and a failure of the '
    'machine that is told; at most two '
    f'retries. With them {sum(r["result"] == "passed" for r in found["rows"])} of '
    f'{len(found["rows"])} tests against real servers passed in {found["seconds"]:.0f} s '
    f'({found["date"]}).',
    '',
    '| fault | result | came to | s |',
    '|---|---|---|---|',
  ]
  for r in rows:
    what = named.match(r['name'])
    lines.append(
      f'| {what[2].replace("|", "/") if what else r["name"]} | {r["result"]} | '
      f'{r["outcome"][:150].replace("|", "/")} | {r["seconds"]:.0f} |'
    )
  return '\n'.join(lines)


def overhead(rows: list[dict[str, Any]]) -> str:
  """The server's price, from the comparisons S1 and S2 of versus.py."""
  lines = [
    '| id | what | beside | over HTTP | beside it | unit | ratio [95%] |',
    '|---|---|---|---|---|---|---|',
  ]
  for r in rows:
    lines.append(
      f'| {r["id"]} | {r["what"]} | {r["peer"]} | {np.median(r["ours"]):.4g} | '
      f'{np.median(r["theirs"]):.4g} | {r["unit"]}/s | {r["ratio"]:.2f} [{r["low"]:.2f}, '
      f'{r["high"]:.2f}] |'
    )
  one = next((r for r in rows if r['id'] == 'S1'), None)
  if one is not None:
    ours, theirs = 1e3 / np.median(one['ours']), 1e3 / np.median(one['theirs'])
    lines += [
      '',
      (
        f'A request of one token takes {ours:.1f} ms through the server and {theirs:.1f} ms '
        f"with vLLM's LLM class: {ours - theirs:.1f} ms for HTTP, the server and our checks."
      ),
    ]
  return '\n'.join([*lines, '', *dict.fromkeys(json.dumps(r['facts']) for r in rows)])


def read(path: pathlib.Path):
  return json.loads(path.read_text()) if path.exists() else None


def page(kept: pathlib.Path) -> str:
  """The page. kept: what the tests showed."""
  compared = read(versus.RESULTS) or {}
  served = [r for name in ('S1', 'S2') for r in compared.get(name, [])]
  sampled = [r for r in compared.get('C3', []) if r['peer'].startswith('vLLM')]
  parts = [
    (
      'Updates in place, by carrier',
      '.venv/bin/python benchmarks/vllm_sync.py run',
      vllm_sync.RESULTS,
      vllm_sync.table,
    ),
    (
      'Greedy answers beside the in-process sampler',
      '.venv/bin/python benchmarks/vllm_parity.py run',
      vllm_parity.RESULTS,
      vllm_parity.table,
    ),
    ('Faults', 'make vllm-full', kept, faults),
    (
      'GRPO with rollouts from the server',
      '.venv/bin/python benchmarks/vllm_grpo.py run',
      vllm_grpo.RESULTS,
      vllm_grpo.table,
    ),
  ]
  out = [
    '# Measured with a real vLLM server',
    '',
    (
      'Written by `benchmarks/vllm_table.py`, the last step of `make vllm-full`, from what '
      'the commands named here measured. [vllm.md](vllm.md) says what is checked and how '
      'it is used.'
    ),
  ]
  for title, command, path, table in parts:
    found = read(path)
    out += [
      '',
      f'## {title}',
      '',
      f'`{command}`',
      '',
      table(found) if found else 'Not measured yet.',
    ]
  out += [
    '',
    '## What asking a server costs',
    '',
    '`.venv/bin/python benchmarks/versus.py run --only=S1,S2`',
    '',
    overhead(served) if served else 'Not measured yet.',
    '',
    '## The in-process sampler beside vLLM',
    '',
    '`.venv/bin/python benchmarks/versus.py run --only=C3 --peer=vLLM`',
    '',
    versus.table({'C3': sampled}) if sampled else 'Not measured yet.',
  ]
  return '\n'.join(out) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tests', type=pathlib.Path)
  arguments = parser.parse_args()
  kept = RESULTS / 'vllm_tests.json'
  if arguments.tests:
    kept.write_text(json.dumps(tests(arguments.tests), indent=1) + '\n')
  OUT.write_text(page(kept))
  print(f'wrote {OUT}')


if __name__ == '__main__':
  main()
