"""The figures of one run: the points and bars that are drawn of it, and the drawings."""

import dataclasses
from collections.abc import Sequence

import markupsafe

from aevo_jax.report import claims
from aevo_jax.report.gains import BASE, PROMOTED, STARTING
from aevo_jax.report.known_scores import measured
from aevo_jax.report.page import plots
from aevo_jax.report.rows import FamilyGap, Measured, TrialRow
from aevo_jax.report.run_view import RunView


@dataclasses.dataclass(frozen=True)
class FamilyPanel:
  """One family of the small multiples. gap: of the last round; None where it is not known."""

  family: str
  svg: markupsafe.Markup
  gap: FamilyGap | None


@dataclasses.dataclass(frozen=True)
class Figures:
  """What the page shows as SVG; None where there is nothing to draw. ylim: of dev and external."""

  final: markupsafe.Markup | None
  dev: markupsafe.Markup | None
  external: markupsafe.Markup | None
  families: tuple[FamilyPanel, ...]
  ylim: tuple[float, float]


def figures(view: RunView) -> Figures:
  """Draws the figures of a run.

  Args:
    view: the run.

  Returns:
    Everything that the page shows as a figure.
  """
  dev = []
  external = []
  for round_ in view.rounds:
    for trial in round_.trials:
      dev += _points(round_.number, trial, trial.dev, label=True)
      external += _points(round_.number, trial, trial.external, label=True)
  ylim = (0.0, 1.0)
  if dev or external:
    ylim = plots.limits(dev + external)
  base = None
  if view.state.base:
    base = ('base', view.state.base['overall']['accuracy'])
  return Figures(
    final=_final(view),
    dev=_rounds('dev', dev, ylim, base),
    external=_rounds('external', external, ylim, None),
    families=_families(view),
    ylim=ylim,
  )


def _points(
  round_: int, trial: TrialRow, score: Measured | None, *, label: bool
) -> list[plots.Point]:
  """The point of a trial's score, if it has one; `label`: with its axis where it was promoted."""
  if score is None:
    return []
  name = trial.axis.replace('_', ' ') if label and trial.promoted else ''
  point = plots.Point(
    round=round_,
    value=score.value,
    low=score.low,
    high=score.high,
    anchor=trial.anchor,
    promoted=trial.promoted,
    label=name,
  )
  return [point]


def _final(view: RunView) -> markupsafe.Markup | None:
  if not view.results.scores:
    return None
  bars = []
  texts = []
  called = claims.names(view)
  for group in (BASE, STARTING, PROMOTED):
    score = view.results.scores.get(group)
    name = called[group]
    if score:
      bars.append(plots.Bar(name, score.accuracy, score.low, score.high))
      texts.append(f'{name} {score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]')
  return _markup(plots.final(bars, name='final', alt=f'Final accuracy: {"; ".join(texts)}'))


def _rounds(
  name: str,
  points: Sequence[plots.Point],
  ylim: tuple[float, float],
  reference: tuple[str, float] | None,
) -> markupsafe.Markup | None:
  if not points:
    return None
  svg = plots.rounds(
    points,
    name=name,
    ylim=ylim,
    reference=reference,
    alt=f'{name} accuracy of every trial by round; the table of each round below has the numbers',
  )
  return _markup(svg)


def _families(view: RunView) -> tuple[FamilyPanel, ...]:
  panels = []
  for family in view.families:
    points = []
    for round_ in view.rounds:
      for trial in round_.trials:
        dev = view.state.trials[trial.trial].dev
        if dev is not None:
          score = measured(dev['by_family'][family])
          points += _points(round_.number, trial, score, label=False)
    if points:
      panels.append(_family(view, family, points))
  return tuple(panels)


def _family(view: RunView, family: str, points: Sequence[plots.Point]) -> FamilyPanel:
  """One panel; of puzzles with the other comparison of answers, where it differs."""
  gaps = []
  if not view.constitution.tasks.path:
    gaps = view.family_gaps(family)
  other_name = 'challenge' if view.verifier == 'strict' else 'strict'
  other = []
  if any(gap.strict != gap.challenge for gap in gaps):
    other = [(gap.round, getattr(gap, other_name)) for gap in gaps]
  svg = plots.small(
    points,
    name=f'family-{family.replace("_", "-")}',
    ylim=(0.0, 1.0),
    other=other,
    other_name=other_name,
    alt=f'dev accuracy on {family} by round, anchors and explorers',
  )
  return FamilyPanel(family, _markup(svg), gaps[-1] if gaps else None)


def _markup(svg: str) -> markupsafe.Markup:
  # Text inside is escaped by matplotlib.
  return markupsafe.Markup(svg)
