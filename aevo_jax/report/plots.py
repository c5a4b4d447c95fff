"""The report's figures as inline SVG.

Text stays text and colours become CSS variables, so a figure follows the page's font and its light
or dark theme. Nothing in a figure tells two things apart by colour alone: anchors are diamonds on a
line, explorers circles, promoted settings ringed and named.
"""

import dataclasses
import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

# What a figure is drawn with -> the page's variable (see report.html.j2). Values no one would
# choose, so that none occurs by chance.
THEME = {
  '#010203': '--ink',
  '#040506': '--soft',
  '#070809': '--grid',
  '#0a0b0c': '--anchor',
  '#0d0e0f': '--explorer',
  '#101112': '--promoted',
  '#131415': '--card',
}
INK, SOFT, GRID, ANCHOR, EXPLORER, PROMOTED, CARD = THEME
_PIXELS = 100  # an inch of a figure is 100 pixels of the page
_STYLE = {
  'svg.fonttype': 'none',
  'text.parse_math': False,
  'font.size': 8,
  'font.family': 'DejaVu Sans',
  'axes.edgecolor': GRID,
  'axes.labelcolor': SOFT,
  'xtick.color': SOFT,
  'ytick.color': SOFT,
  'text.color': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.8,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'axes.axisbelow': True,
}


@dataclasses.dataclass(frozen=True)
class Point:
  """One trial's score in a round; low and high are its 95% interval. label: what to write beside
  it, '' for nothing.
  """

  round: int
  value: float
  low: float
  high: float
  anchor: bool
  promoted: bool = False
  label: str = ''


@dataclasses.dataclass(frozen=True)
class Bar:
  """A named score with its 95% interval."""

  name: str
  value: float
  low: float
  high: float


def limits(points: Sequence[Point]) -> tuple[float, float]:
  """A range of accuracies that holds all intervals with some air and room for labels; from 0 where
  that costs little.
  """
  low, high = min(p.low for p in points), max(p.high for p in points)
  air = max(0.05 * (high - low), 0.005)
  bottom = 0.0 if low < 0.35 * high else max(0.0, low - air)
  # Names of promoted settings stand above their trials, one line each.
  lines = max((sum(bool(q.label) for q in points if q.round == p.round) for p in points), default=0)
  return bottom, min(1.0, high + air) + 0.06 * lines * (high - bottom)


def rounds(
  points: Sequence[Point],
  *,
  name: str,
  ylim: tuple[float, float],
  alt: str,
  reference: tuple[str, float] | None = None,
  width: int = 370,
  height: int = 270,
) -> str:
  """Scores by round: anchors joined by a line, explorers beside them.

  Args:
    name: unique in the page. ylim: see `limits`. alt: the figure in words. reference: (name, value)
      of a horizontal line, drawn where it lies inside.
  """
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, height)
    numbers = sorted({p.round for p in points})
    axes.set(xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=ylim)
    if reference is not None and ylim[0] <= reference[1] <= ylim[1]:
      axes.axhline(reference[1], color=SOFT, lw=1, ls=(0, (4, 3)))
      axes.annotate(
        f'{reference[0]} {reference[1]:.2f}',
        (1, reference[1]),
        xycoords=('axes fraction', 'data'),
        xytext=(0, 3),
        textcoords='offset points',
        ha='right',
        color=SOFT,
      )
    _trials(axes, points, spread=0.7, size=1.0)
    _axis_labels(axes, numbers)
    return _svg(figure, name, alt)


def small(
  points: Sequence[Point],
  *,
  name: str,
  ylim: tuple[float, float],
  alt: str,
  other: Sequence[tuple[int, float]],
  other_name: str,
  width: int = 300,
  height: int = 175,
) -> str:
  """One family's panel of the small multiples; other: (round, accuracy) of the anchors by the other
  comparison, drawn dashed; empty for none.
  """
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, height)
    numbers = sorted({p.round for p in points})
    axes.set(xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=ylim)
    places = _trials(axes, points, spread=0.66, size=0.72)
    if other:
      line = [(places[number], value) for number, value in other]
      axes.plot(
        *zip(*line),
        color=SOFT,
        lw=1,
        ls=(0, (3, 2)),
        marker='D',
        ms=3.2,
        mfc=CARD,
        mec=SOFT,
        zorder=3,
      )
      axes.annotate(
        other_name, line[0], xytext=(-6, 6), textcoords='offset points', ha='left', color=SOFT
      )
    _axis_labels(axes, numbers)
    return _svg(figure, name, alt)


def final(bars: Sequence[Bar], *, name: str, alt: str, width: int = 370) -> str:
  """Scores on the final set as points on an axis from 0."""
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, 50 + 40 * len(bars))
    colours = {'base': SOFT, 'starting': ANCHOR, 'promoted': PROMOTED}
    for y, bar in enumerate(reversed(bars)):
      colour = colours[bar.name]
      axes.plot([bar.low, bar.high], [y, y], color=colour, lw=2.2, solid_capstyle='butt')
      axes.plot([bar.value], [y], marker='D' if bar.name != 'base' else 'o', ms=7, color=colour)
      axes.annotate(
        f'{bar.name}  {bar.value:.3f}  [{bar.low:.3f}, {bar.high:.3f}]',
        (bar.value, y),
        xytext=(0, 9),
        textcoords='offset points',
        ha='left' if bar.value < 0.3 else 'right' if bar.value > 0.7 else 'center',
      )
    top = max(bar.high for bar in bars)
    axes.set(xlim=(0, min(1.0, max(1.12 * top, 0.1))), ylim=(-0.5, len(bars) - 0.3), yticks=[])
    axes.grid(False, axis='y')
    axes.grid(True, axis='x', color=GRID, lw=0.7)
    axes.spines['left'].set_visible(False)
    axes.set_xlabel('accuracy on the final set, with 95% intervals')
    return _svg(figure, name, alt)


def _axes(width: int, height: int):
  figure = Figure((width / _PIXELS, height / _PIXELS), dpi=_PIXELS, layout='constrained')
  FigureCanvasSVG(figure)
  axes = figure.subplots()
  axes.grid(True, axis='y', color=GRID, lw=0.7)
  figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
  return figure, axes


def _axis_labels(axes, numbers: Sequence[int]) -> None:
  axes.set_xticks(numbers, [f'{n}' for n in numbers])
  axes.set_xlabel('round (0: noise floor)' if 0 in numbers else 'round')
  axes.yaxis.set_major_formatter(
    lambda value, _: f'{value:.2f}'.replace('0.', '.', 1) if value < 1 else '1'
  )


def _trials(axes, points: Sequence[Point], *, spread: float, size: float) -> dict[int, float]:
  """Anchors and explorers side by side in worker order; returns round -> where the mean of its
  anchors stands.
  """
  line = {}
  for number in sorted({p.round for p in points}):
    here = [p for p in points if p.round == number]
    step = spread / max(len(here) - 1, 1)
    places = [number - spread / 2 + i * step if len(here) > 1 else number for i in range(len(here))]
    for x, p in zip(places, here):
      colour = PROMOTED if p.promoted else ANCHOR if p.anchor else EXPLORER
      axes.plot(
        [x, x],
        [p.low, p.high],
        color=colour,
        lw=(1.3 if p.anchor or p.promoted else 0.9) * size,
        zorder=2,
      )
      axes.plot(
        [x],
        [p.value],
        marker='D' if p.anchor else 'o',
        ms=(5 if p.anchor or p.promoted else 3.6) * size,
        color=colour,
        zorder=5 if p.anchor else 4,
      )
      if p.promoted:
        axes.plot(
          [x], [p.value], marker='o', ms=8.5 * size, color=colour, mfc='none', mew=1, zorder=4
        )
    _labels(
      axes,
      [(x, p) for x, p in zip(places, here) if p.label],
      top=max(p.high for p in here),
      last=number == max(q.round for q in points),
    )
    anchors = [(x, p.value) for x, p in zip(places, here) if p.anchor]
    if anchors:
      line[number] = (
        sum(x for x, _ in anchors) / len(anchors),
        sum(v for _, v in anchors) / len(anchors),
      )
  if len(line) > 1:
    axes.plot(*zip(*line.values()), color=ANCHOR, lw=1.4 * size, zorder=3)
  return {number: x for number, (x, _) in line.items()}


def _labels(axes, labelled: Sequence[tuple[float, Point]], *, top: float, last: bool) -> None:
  """Names above a round's trials, the rightmost lowest, each with a thin line down to its trial so
  that none overlap.
  """
  for level, (x, p) in enumerate(reversed(labelled)):
    axes.annotate(
      p.label,
      xy=(x, p.high),
      xycoords='data',
      xytext=(x, top),
      textcoords=axes.transData + _points_up(axes, 7 + 11 * level),
      ha='right' if last else 'center',
      color=PROMOTED,
      zorder=6,
      arrowprops={'arrowstyle': '-', 'color': PROMOTED, 'lw': 0.6, 'shrinkA': 0, 'shrinkB': 1},
    )


def _points_up(axes, points: float) -> ScaledTranslation:
  return ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)


def _svg(figure: Figure, name: str, alt: str) -> str:
  """The figure as an <svg> element for HTML: ids made unique by `name`, colours as variables, no
  prolog, namespaces or metadata.
  """
  buffer = io.StringIO()
  figure.savefig(
    buffer,
    format='svg',
    transparent=True,
    metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None},
  )
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  head, body = text.split('>', 1)
  box = re.search(r'viewBox="[^"]*"', head).group(0)
  body = re.sub(
    r'(\sid=|xlink:href=|clip-path=)"(#|url\(#)?',
    lambda m: f'{m.group(1)}"{m.group(2) or ""}{name}-',
    body,
  )
  for colour, variable in THEME.items():
    body = re.sub(rf'((?:fill|stroke): ){colour}', rf'\1var({variable})', body)
  return f'<svg {box} role="img" aria-label="{html.escape(alt, quote=True)}">{body.rstrip()}'
