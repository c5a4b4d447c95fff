"""report.html: the campaign for a person, in one file that needs nothing else.

`RunView` reads the run, `figures` draws, the template lays out and escapes. Recipes, reasons,
causes and logs are free text of agents and workers: the template escapes everything, and only
figures, with text that matplotlib escapes, go in as they are.
"""

import datetime
import pathlib
import shlex
from collections.abc import Iterable

import jinja2
import markupsafe

from aevo_jax.report import claims, costs
from aevo_jax.report.gains import Gain
from aevo_jax.report.page.figures import Figures, figures
from aevo_jax.report.run_view import RunView

REPORT = 'report.html'
TEMPLATE = 'report.html.j2'
_SPANS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of small pictures of gains, to either side


def write(view: RunView) -> pathlib.Path:
  """Writes report.html into the run directory; of an unfinished run, as far as it has come.

  Args:
    view: the run.

  Returns:
    The file, which takes the place of an older one at once.

  Raises:
    ScoreFileError: the run's files are damaged.
  """
  path = view.run / REPORT
  temporary = path.with_name(f'.{REPORT}.new')
  temporary.write_text(render(view), encoding='utf-8')
  temporary.replace(path)
  return path


def render(view: RunView, drawn: Figures | None = None) -> str:
  """Renders the page.

  Args:
    view: the run.
    drawn: its figures; they are drawn here if not given.

  Returns:
    The page's HTML, the same bytes for the same run.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('aevo_jax', 'report/page'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'signed': lambda x: f'{x:+.3f}'.replace('-', '\N{MINUS SIGN}'),
    'accuracy': lambda x: f'{x:.3f}',
    'percent': lambda x: f'{100 * x:.1f}%',
    'duration': duration,
    'count': lambda n: f'{n:,}',
    'words': lambda text: text.replace('_', ' '),
    'when': when,
    'flops': flops,
    'breakable': breakable,
  }
  environment.globals |= {'strip': strip, 'reach': reach}
  return environment.get_template(TEMPLATE).render(
    view=view,
    state=view.state,
    started=view.started,
    constitution=view.constitution,
    results=view.results,
    costs=view.costs,
    parts=costs.PARTS,
    training=costs.TRAINING,
    final_round=costs.FINAL,
    figures=drawn or figures(view),
    run=view.run.name,
    run_path=shlex.quote(str(view.run)),
    progress=progress(view),
    headline=claims.headline(view),
    regressions=claims.regressions(view),
    warnings=claims.warnings(view),
    over=claims.OVER,
    called=claims.names(view),
    head=view.records[-1],
    first=view.records[0],
  )


def progress(view: RunView) -> dict[str, int]:
  """Counts how far the campaign has come.

  Args:
    view: the run.

  Returns:
    Numbers of trials: 'done', 'planned', 'failed' and 'refused'.
  """
  budget = view.constitution.budget
  statuses = view.statuses
  return {
    'done': statuses.total() - statuses['assigned'],
    'planned': budget.noise_seeds + budget.rounds * budget.workers + 2 * budget.final_seeds,
    'failed': statuses['failed'],
    'refused': statuses['refused'],
  }


# -- filters and functions of the template ---------------------------------------------------------


def duration(seconds: float) -> str:
  """Writes a duration: '48 s', '12 min 5 s', '3 h 20 min'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  if minutes:
    return f'{minutes} min {rest} s'
  return f'{rest} s'


def when(seconds: float) -> str:
  """Writes Unix seconds as a date, in UTC: a report reads the same on every machine."""
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')


def flops(n: float) -> str:
  """Writes a number of floating-point operations: '22 TFLOP', with two digits at least."""
  for unit, size in (('E', 1e18), ('P', 1e15), ('T', 1e12), ('G', 1e9)):
    if n >= 10 * size:
      return f'{n / size:,.0f} {unit}FLOP'
    if n >= size:
      return f'{n / size:.1f} {unit}FLOP'
  return f'{n / 1e6:.1f} MFLOP'


def breakable(text: str) -> markupsafe.Markup:
  """Escapes a selector, and lets a narrow column break it behind each `.` and `_`."""
  return markupsafe.Markup(
    str(markupsafe.escape(text)).replace('.', '.<wbr>').replace('_', '_<wbr>')
  )


def reach(gains: Iterable[Gain]) -> float:
  """Chooses how far small pictures of gains span.

  Args:
    gains: all that are drawn to one scale.

  Returns:
    A round number that holds most of the intervals to either side of 0, so that one bad trial does
    not squeeze the rest.
  """
  ends = sorted(max(abs(gain.low), abs(gain.high)) for gain in gains)
  most = 0.0
  if len(ends) > 3:
    most = ends[(3 * len(ends)) // 4 - 1]
  elif ends:
    most = ends[-1]
  return next((span for span in _SPANS if span >= most), 1.0)


def strip(gain: Gain, reach: float) -> markupsafe.Markup:
  """Draws a gain as a small picture.

  Args:
    gain: the value and its interval.
    reach: the axis spans from -reach to +reach, with a tick at 0; what lies beyond is cut off.

  Returns:
    An <svg> element.
  """

  def position(value: float) -> float:
    return 50 + 50 * max(-1.0, min(1.0, value / reach))

  low = position(gain.low)
  high = position(gain.high)
  return markupsafe.Markup(
    f'<svg class="strip {gain.verdict}" viewBox="0 0 100 12" preserveAspectRatio="none" '
    'aria-hidden="true"><line class="zero" x1="50" x2="50" y1="0" y2="12"/>'
    f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="6" y2="6"/>'
    f'<rect class="mean" x="{position(gain.value) - 1:.1f}" y="2" width="2" height="8"/></svg>'
  )
