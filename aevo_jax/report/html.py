"""report.html: the campaign for a person, in one file that needs nothing else.

`view` reads the run, `plots` draws, the template lays out and escapes. Recipes, reasons, causes
and logs are free text of agents and workers: the template escapes everything, and only figures,
whose text matplotlib escapes, go in as they are.
"""

import datetime
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any

import jinja2
import markupsafe

from aevo_jax.report import costs, gains, plots
from aevo_jax.report.gains import Gain
from aevo_jax.report.run_view import Measured, Round, RunView

REPORT, TEMPLATE = 'report.html', 'report.html.j2'


def write(view: RunView) -> pathlib.Path:
  """Writes report.html into the run directory; of an unfinished run, as far as it has come.

  Raises:
    ScoreFileError: the run's files are damaged.
  """
  path = view.run / REPORT
  temporary = path.with_name(f'.{REPORT}.new')
  temporary.write_text(render(view), encoding='utf-8')
  temporary.replace(path)
  return path


def render(view: RunView) -> str:
  """The page."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('aevo_jax', 'report'),
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
    figures=figures(view),
    run=view.run.name,
    run_path=shlex.quote(str(view.run)),
    progress=progress(view),
    head=view.records[-1],
    first=view.records[0],
  )


def progress(view: RunView) -> dict[str, int]:
  """How far the campaign has come, in trials."""
  budget, trials = view.constitution.budget, view.state.trials.values()
  return {
    'done': sum(t.done for t in trials),
    'planned': budget.noise_seeds + budget.rounds * budget.workers + 2 * budget.final_seeds,
    'failed': sum(t.status == 'failed' for t in trials),
    'refused': sum(t.status == 'refused' for t in trials),
  }


def duration(seconds: float) -> str:
  """'48 s', '12 min 5 s', '3 h 20 min'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f'{hours} h {minutes} min' if hours else f'{minutes} min {rest} s' if minutes else f'{rest} s'
  )


def when(seconds: float) -> str:
  """Unix seconds as a date, in UTC: a report reads the same on every machine."""
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')


def flops(n: float) -> str:
  """'22 TFLOP', with two digits at least."""
  for unit, size in (('E', 1e18), ('P', 1e15), ('T', 1e12), ('G', 1e9)):
    if n >= size:
      return f'{n / size:.1f} {unit}FLOP' if n < 10 * size else f'{n / size:,.0f} {unit}FLOP'
  return f'{n / 1e6:.1f} MFLOP'


def breakable(text: str) -> markupsafe.Markup:
  """Escaped, with places where a narrow column may break a selector."""
  return markupsafe.Markup(
    str(markupsafe.escape(text)).replace('.', '.<wbr>').replace('_', '_<wbr>')
  )


# -- figures ---------------------------------------------------------------------------------------


def figures(view: RunView) -> dict[str, Any]:
  """'final', 'dev', 'external' -> SVG or None where there is nothing to draw; 'families' -> a list
  of (family, SVG, gap); 'ylim' of dev and external.
  """
  dev, external = _points(view.rounds, 'dev'), _points(view.rounds, 'external')
  ylim = plots.limits(dev + external) if dev or external else (0.0, 1.0)
  base = ('base', view.state.base['overall']['accuracy']) if view.state.base else None
  drawn: dict[str, Any] = {
    'final': None,
    'dev': None,
    'external': None,
    'families': [],
    'ylim': ylim,
  }
  if view.results.scores:
    bars = [
      plots.Bar(name, s.accuracy, s.low, s.high)
      for name in (gains.BASE, gains.STARTING, gains.PROMOTED)
      if (s := view.results.scores.get(name))
    ]
    drawn['final'] = _figure(
      plots.final(
        bars,
        name='final',
        alt='Final accuracy: '
        + '; '.join(f'{b.name} {b.value:.3f} [{b.low:.3f}, {b.high:.3f}]' for b in bars),
      )
    )
  for name, points in (('dev', dev), ('external', external)):
    if points:
      drawn[name] = _figure(
        plots.rounds(
          points,
          name=name,
          ylim=ylim,
          reference=base if name == 'dev' else None,
          alt=(
            f'{name} accuracy of every trial by round; the table of each round below has '
            'the numbers'
          ),
        )
      )
  panels = {family: _points(view.rounds, 'dev', view.state, family) for family in view.families}
  for family, points in panels.items():
    if points:
      gap = (
        [] if view.constitution.tasks.path else view.family_gap(family)
      )  # the two comparisons are the puzzles'
      agree = all(strict == challenge for _, strict, challenge in gap)
      column = 2 if view.verifier == 'strict' else 1
      other_name = 'challenge' if view.verifier == 'strict' else 'strict'
      svg = plots.small(
        points,
        name=f'family-{family.replace("_", "-")}',
        ylim=(0.0, 1.0),
        other=[] if agree else [(row[0], row[column]) for row in gap],
        other_name=other_name,
        alt=f'dev accuracy on {family} by round, anchors and explorers',
      )
      drawn['families'].append((family, _figure(svg), gap[-1] if gap else None))
  return drawn


def _points(
  rounds: tuple[Round, ...], split: str, state=None, family: str = ''
) -> list[plots.Point]:
  """Points of the trials that have a score; of one family on dev if it is named."""
  points = []
  for round_ in rounds:
    for told in round_.trials:
      if family:
        dev = state.trials[told.trial].dev
        measured = (
          None
          if dev is None
          else Measured(*(dev['by_family'][family][k] for k in ('accuracy', 'low', 'high')))
        )
      else:
        measured = getattr(told, split)
      if measured is not None:
        points.append(
          plots.Point(
            round_.number,
            measured.value,
            measured.low,
            measured.high,
            told.anchor,
            told.promoted,
            told.axis.replace('_', ' ') if told.promoted and not family else '',
          )
        )
  return points


def _figure(svg: str) -> markupsafe.Markup:
  return markupsafe.Markup(svg)  # text inside is escaped by matplotlib


def reach(found: Iterable[Gain]) -> float:
  """How far to either side small pictures of gains span: a round number that holds most of the
  intervals, so that one bad trial does not squeeze the rest.
  """
  ends = sorted(max(abs(g.low), abs(g.high)) for g in found)
  most = ends[(3 * len(ends)) // 4 - 1 if len(ends) > 3 else -1] if ends else 0.0
  return next((r for r in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5) if r >= most), 1.0)


def strip(gain: Gain, reach: float) -> markupsafe.Markup:
  """A gain as a small picture: its interval on an axis from -reach to +reach with a tick at 0; what
  lies beyond is cut off.
  """
  place = lambda v: 50 + 50 * max(-1.0, min(1.0, v / reach))
  return markupsafe.Markup(
    f'<svg class="strip {gain.verdict}" viewBox="0 0 100 12" preserveAspectRatio="none" '
    'aria-hidden="true"><line class="zero" x1="50" x2="50" y1="0" y2="12"/>'
    f'<line class="range" x1="{place(gain.low):.1f}" x2="{place(gain.high):.1f}" y1="6" y2="6"/>'
    f'<rect class="mean" x="{place(gain.value) - 1:.1f}" y="2" width="2" height="8"/></svg>'
  )
