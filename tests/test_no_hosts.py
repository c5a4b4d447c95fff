"""No committed file names a package registry's host or a folder of the machine it was written on.

Set-up takes indexes from pip's and uv's own configuration; a host in a lock or script would
overrule a user's mirror, and an absolute path would work on one machine. The patterns below are
written so that they do not match themselves.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

REGISTRY = re.compile(
  r'\b(?:[\w-]+\.)*(?:p[y]pi|py(?:thon)[h]osted|ana[c]onda|n[p]mjs|cr[a]tes|d[o]cker|q[u]ay)\.(?:org|com|io|net)\b'
  r'|\bdown[l]oad\.[\w-]+\.org/wh[l]\b'
  r'|--(?:extra-)?index-u[r]l[= ]+\w+://|--find-l[i]nks[= ]+[/\w]',
  re.I,
)
MACHINE_PATH = re.compile(r'(?<![\w.}\])~/-])/(?:h[o]me|U[s]ers|w[o]rk|r[o]ot)/[\w.]')


def committed_files() -> list[pathlib.Path]:
  """Tracked files and those about to be: everything git does not ignore."""
  command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  if done.returncode != 0:
    pytest.skip('not a git checkout, so nothing is committed')
  return [
    path for path in map(ROOT.joinpath, filter(None, done.stdout.split('\0'))) if path.is_file()
  ]


@pytest.mark.parametrize('pattern', [REGISTRY, MACHINE_PATH], ids=['registry', 'machine path'])
def test_no_committed_file_matches(pattern):
  found = []
  for path in committed_files():
    content = path.read_bytes()
    if b'\0' in content:
      continue  # weights and pictures
    for number, line in enumerate(content.decode('utf-8', errors='replace').splitlines(), 1):
      if match := pattern.search(line):
        found.append(f'{path.relative_to(ROOT)}:{number}: {match[0]}')
  assert found == []


@pytest.mark.parametrize(
  'line',
  [
    'https://files.py' + 'thonhosted.org/packages/a.whl',
    'index = "https://py' + 'pi.org/simple"',
    'https://test.PY' + 'PI.org/simple',
    '--extra-index-' + 'url https://mirror.example/simple',
    '--find-' + 'links=/wheels',
    'https://download.' + 'pytorch.org/wh' + 'l/cpu',
  ],
)
def test_registry_pattern_sees(line):
  assert REGISTRY.search(line)


@pytest.mark.parametrize(
  'line', ['/ho' + 'me/ann/x', '"/wo' + 'rk/main"', 'cd /ro' + 'ot/.cache', '(/Us' + 'ers/bo']
)
def test_path_pattern_sees(line):
  assert MACHINE_PATH.search(line)


@pytest.mark.parametrize(
  'line',
  [
    'frame/work/x',
    'runs/work/x',
    'as root/user',
    'https://keepachangelog.com/en/1.1.0/',
    '{root}/work/x',
  ],
)
def test_patterns_leave_ordinary_text(line):
  assert not REGISTRY.search(line) and not MACHINE_PATH.search(line)
