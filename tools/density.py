"""Prints how dense the code is: constructs per 1,000 non-blank lines, one row for each folder.

  python tools/density.py                      aevo_jax and launch together, then each part
  python tools/density.py --root=OTHER_CHECKOUT
  python tools/density.py --check              exits with 1 where a limit of `LIMITS` is exceeded

What counts, in words:

- A tuple assignment has a tuple on both sides of `=`. Unpacking a call or a loop variable is none.
- A ternary is `a if b else c`, and also `b and a or c`, which says the same.
- A comprehension is a list, set or dict comprehension or a generator, and also a call of `map` or
  `filter`, which does the same.
- A named lambda is a lambda that an assignment gives a name.
- A documented function is public and its docstring has `Args:` or `Returns:` with at least one line
  that says more than the name and the annotated type.
"""

import argparse
import ast
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator

FOLDERS = ('aevo_jax', 'launch')
LIMITS = {
  'lines > 100': 0.0,
  'tuple assignments': 7.0,
  'ternaries': 12.0,
  'comprehensions': 25.0,
  'named lambdas': 1.5,
}
DOCUMENTED_AT_LEAST = 40.0
COLUMNS = 100

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SECTION = re.compile(r'^(Args|Returns|Yields):', re.MULTILINE)


@dataclasses.dataclass
class Counts:
  """Totals over some files; lines are non-blank lines."""

  files: int = 0
  lines: int = 0
  characters: int = 0
  long_lines: int = 0
  comment_lines: int = 0
  tuple_assignments: int = 0
  ternaries: int = 0
  comprehensions: int = 0
  named_lambdas: int = 0
  public_functions: int = 0
  documented_functions: int = 0

  def add(self, other: 'Counts') -> None:
    """Adds the totals of `other` to these."""
    for field in dataclasses.fields(self):
      total = getattr(self, field.name) + getattr(other, field.name)
      setattr(self, field.name, total)

  def row(self) -> dict[str, float]:
    """Returns the table's columns: counts per 1,000 lines, and shares in percent."""
    per_thousand = 1000 / max(1, self.lines)
    return {
      'files': self.files,
      'lines': self.lines,
      'characters a line': self.characters / max(1, self.lines),
      'lines > 100': self.long_lines,
      'tuple assignments': self.tuple_assignments * per_thousand,
      'ternaries': self.ternaries * per_thousand,
      'comprehensions': self.comprehensions * per_thousand,
      'named lambdas': self.named_lambdas * per_thousand,
      'comment lines': self.comment_lines * per_thousand,
      'Args/Returns %': 100 * self.documented_functions / max(1, self.public_functions),
    }


def is_tuple_assignment(node: ast.AST) -> bool:
  """Whether `node` assigns a written tuple to several names."""
  if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
    return False
  return any(isinstance(target, ast.Tuple) for target in node.targets)


def is_ternary(node: ast.AST) -> bool:
  """Whether `node` is a conditional expression, spelt `if ... else` or `and ... or`."""
  if isinstance(node, ast.IfExp):
    return True
  if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
    return False
  first = node.values[0]
  # `a and b or c` is a condition of a choice only where it gives no truth value by comparing.
  gives_value = not isinstance(node.values[-1], ast.Compare | ast.UnaryOp | ast.BoolOp | ast.Call)
  return isinstance(first, ast.BoolOp) and isinstance(first.op, ast.And) and gives_value


def is_comprehension(node: ast.AST) -> bool:
  """Whether `node` is a comprehension, a generator or a call of `map` or `filter`."""
  if isinstance(node, _COMPREHENSIONS):
    return True
  called = node.func if isinstance(node, ast.Call) else None
  return isinstance(called, ast.Name) and called.id in ('map', 'filter')


def is_named_lambda(node: ast.AST) -> bool:
  """Whether `node` gives a lambda a name."""
  if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) or node.value is None:
    return False
  values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
  return any(isinstance(value, ast.Lambda) for value in values)


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
  """Yields the functions of a module and the methods of its public classes without `_` in front."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      members = node.body
    else:
      members = [node]
    for member in members:
      if isinstance(member, _FUNCTIONS) and not member.name.startswith('_'):
        yield member


def is_documented(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
  """Whether a docstring has `Args:` or `Returns:` with a line beyond name and type."""
  docstring = ast.get_docstring(function) or ''
  section = _SECTION.search(docstring)
  if section is None:
    return False
  known = {function.name, 'the', 'a', 'an', 'of', 'none', 'optional'}
  arguments = function.args
  for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
    known.add(argument.arg)
    if argument.annotation is not None:
      known.update(re.findall(r'\w+', ast.unparse(argument.annotation)))
  if function.returns is not None:
    known.update(re.findall(r'\w+', ast.unparse(function.returns)))
  known = {part.lower() for word in known for part in (word, *word.split('_'))}
  for line in docstring[section.end() :].splitlines():
    words = re.findall(r'[A-Za-z_]\w*', line)
    if sum(word.lower() not in known for word in words) >= 2:
      return True
  return False


def count(source: str) -> Counts:
  """Counts one file.

  Args:
    source: the text of a Python file.

  Returns:
    The totals of that file. Raises SyntaxError where it does not parse.
  """
  tree = ast.parse(source)
  lines = [line for line in source.splitlines() if line.strip()]
  functions = list(public_functions(tree))
  counts = Counts(
    files=1,
    lines=len(lines),
    characters=sum(map(len, lines)),
    long_lines=sum(len(line) > COLUMNS for line in lines),
    comment_lines=sum(line.lstrip().startswith('#') for line in lines),
    public_functions=len(functions),
    documented_functions=sum(map(is_documented, functions)),
  )
  for node in ast.walk(tree):
    counts.tuple_assignments += is_tuple_assignment(node)
    counts.ternaries += is_ternary(node)
    counts.comprehensions += is_comprehension(node)
    counts.named_lambdas += is_named_lambda(node)
  return counts


def table(root: pathlib.Path, folders: tuple[str, ...]) -> dict[str, Counts]:
  """Counts every Python file of some folders.

  Args:
    root: a checkout.
    folders: names below `root` that are counted together as 'all'.

  Returns:
    Totals by part: 'all', then each folder, and each package of aevo_jax for itself.
  """
  rows = {'all': Counts()}
  for folder in folders:
    for path in sorted((root / folder).rglob('*.py')):
      parts = path.relative_to(root).parts
      part = '/'.join(parts[:2]) if parts[0] == 'aevo_jax' and len(parts) > 2 else parts[0]
      counts = count(path.read_text(encoding='utf-8'))
      rows['all'].add(counts)
      rows.setdefault(part, Counts()).add(counts)
  return rows


def exceeded(counts: Counts) -> list[str]:
  """Returns a sentence for every limit that these totals break."""
  row = counts.row()
  problems = [
    f'{name}: {row[name]:.1f}, at most {limit:g}'
    for name, limit in LIMITS.items()
    if row[name] > limit
  ]
  if row['Args/Returns %'] < DOCUMENTED_AT_LEAST:
    problems.append(
      f'Args/Returns %: {row["Args/Returns %"]:.1f}, at least {DOCUMENTED_AT_LEAST:g}'
    )
  return problems


def print_table(rows: dict[str, Counts]) -> None:
  """Prints the counts as a table, a row for each part."""
  print(' | '.join([f'{"part":<26}', *rows['all'].row()]))
  for part, counts in rows.items():
    cells = [f'{value:>{len(name)}.1f}' for name, value in counts.row().items()]
    print(' | '.join([f'{part:<26}', *cells]))


def main() -> int:
  """Prints the table; returns 1 where --check finds a limit exceeded."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='*', default=FOLDERS, help='folders below the root')
  parser.add_argument('--root', type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
  parser.add_argument('--check', action='store_true', help='fail where a limit is exceeded')
  parser.add_argument('--quiet', action='store_true', help='print exceeded limits alone')
  options = parser.parse_args()
  rows = table(options.root, tuple(options.folders))
  if not options.quiet:
    print_table(rows)
  problems = exceeded(rows['all']) if options.check else []
  for problem in problems:
    print(problem, file=sys.stderr)
  return 1 if problems else 0


if __name__ == '__main__':
  sys.exit(main())
