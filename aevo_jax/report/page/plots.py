"""The report's figures as inline SVG.

Text stays text and colours become CSS variables, so a figure follows the page's font and its light
or dark theme. Nothing in a figure tells two things apart by colour alone: anchors are diamonds on a
line, explorers circles, promoted settings ringed and named.
"""

import collections
import dataclasses
import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

# Values that nobody would choose, so that none occurs in a figure by chance.
INK = '#010203'
SOFT = '#040506'
GRID = '#070809'
ANCHOR = '#0a0b0c'
EXPLORER = '#0d0e0f'
PROMOTED = '#101112'
CARD = '#131415'
# Colour in a figure -> the page's variable (see report.html.j2).
THEME = {
  INK: '--ink',
  SOFT: '--soft',
  GRID: '--grid',
  ANCHOR: '--anchor',
  EXPLORER: '--explorer',
  PROMOTED: '--promoted',
  CARD: '--card',
}
_BAR_COLOURS = {'base': SOFT, 'starting': ANCHOR, 'other seeds': ANCHOR, 'promoted': PROMOTED}
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
  """One trial's score in a round, with its 95% interval; label: the text beside it, '' for none."""

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
  """Chooses a range of accuracies that holds all intervals, with some air and room for labels.

  Args:
    points: at least one.

  Returns:
    The lowest and the highest accuracy of the axis; the lowest is 0 where that costs little.
  """
  low = 1.0
  high = 0.0
  for point in points:
    low = min(low, point.low)
    high = max(high, point.high)
  air = max(0.05 * (high - low), 0.005)
  bottom = 0.0
  if low >= 0.35 * high:
    bottom = max(0.0, low - air)
  # Names of promoted settings stand above their trials, one line each.
  labels = collections.Counter(p.round for p in points if p.label)
  lines = max(labels.values(), default=0)
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
  """Draws scores by round: anchors joined by a line, explorers beside them.

  Args:
    points: at least one.
    name: unique in the page.
    ylim: see `limits`.
    alt: the figure in words.
    reference: name and value of a horizontal line, drawn where it lies inside.
    width: pixels of the page.
    height: pixels of the page.

  Returns:
    An <svg> element.
  """
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, height)
    _limit_rounds(axes, points, ylim)
    if reference is not None and ylim[0] <= reference[1] <= ylim[1]:
      _reference_line(axes, *reference)
    _trials(axes, points, spread=0.7, size=1.0)
    _axis_labels(axes, points)
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
  """Draws one family's panel of the small multiples.

  Args:
    points: at least one.
    name: unique in the page.
    ylim: the range of accuracies.
    alt: the figure in words.
    other: (round, accuracy) of the anchors by the other comparison, drawn dashed; empty for none.
    other_name: the name of that comparison.
    width: pixels of the page.
    height: pixels of the page.

  Returns:
    An <svg> element.
  """
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, height)
    _limit_rounds(axes, points, ylim)
    positions = _trials(axes, points, spread=0.66, size=0.72)
    if other:
      _dashed_line(axes, [(positions[number], value) for number, value in other], other_name)
    _axis_labels(axes, points)
    return _svg(figure, name, alt)


def final(bars: Sequence[Bar], *, name: str, alt: str, width: int = 370) -> str:
  """Draws scores on the final set as points on an axis from 0.

  Args:
    bars: 'base', 'starting' and 'promoted', or some of them, from top to bottom.
    name: unique in the page.
    alt: the figure in words.
    width: pixels of the page.

  Returns:
    An <svg> element.
  """
  with matplotlib.rc_context(_STYLE | {'svg.hashsalt': name}):
    figure, axes = _axes(width, 50 + 40 * len(bars))
    for y, bar in enumerate(reversed(bars)):
      _bar(axes, y, bar)
    top = max(bar.high for bar in bars)
    axes.set(xlim=(0, min(1.0, max(1.12 * top, 0.1))), ylim=(-0.5, len(bars) - 0.3), yticks=[])
    axes.grid(False, axis='y')
    axes.grid(True, axis='x', color=GRID, lw=0.7)
    axes.spines['left'].set_visible(False)
    axes.set_xlabel('accuracy on the final set, with 95% intervals')
    return _svg(figure, name, alt)


# -- parts of a figure -----------------------------------------------------------------------------


def _axes(width: int, height: int):
  figure = Figure((width / _PIXELS, height / _PIXELS), dpi=_PIXELS, layout='constrained')
  FigureCanvasSVG(figure)
  axes = figure.subplots()
  axes.grid(True, axis='y', color=GRID, lw=0.7)
  figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
  return figure, axes


def _numbers(points: Sequence[Point]) -> list[int]:
  return sorted({p.round for p in points})


def _limit_rounds(axes, points: Sequence[Point], ylim: tuple[float, float]) -> None:
  numbers = _numbers(points)
  axes.set(xlim=(numbers[0] - 0.5, numbers[-1] + 0.5), ylim=ylim)


def _axis_labels(axes, points: Sequence[Point]) -> None:
  numbers = _numbers(points)
  axes.set_xticks(numbers, [f'{n}' for n in numbers])
  axes.set_xlabel('round (0: noise floor)' if 0 in numbers else 'round')
  axes.yaxis.set_major_formatter(_without_leading_zero)


def _without_leading_zero(value: float, _: int) -> str:
  if value >= 1:
    return '1'
  return f'{value:.2f}'.replace('0.', '.', 1)


def _reference_line(axes, name: str, value: float) -> None:
  axes.axhline(value, color=SOFT, lw=1, ls=(0, (4, 3)))
  axes.annotate(
    f'{name} {value:.2f}',
    (1, value),
    xycoords=('axes fraction', 'data'),
    xytext=(0, 3),
    textcoords='offset points',
    ha='right',
    color=SOFT,
  )


def _dashed_line(axes, line: Sequence[tuple[float, float]], name: str) -> None:
  axes.plot(
    *zip(*line, strict=True),
    color=SOFT,
    lw=1,
    ls=(0, (3, 2)),
    marker='D',
    ms=3.2,
    mfc=CARD,
    mec=SOFT,
    zorder=3,
  )
  axes.annotate(name, line[0], xytext=(-6, 6), textcoords='offset points', ha='left', color=SOFT)


def _bar(axes, y: int, bar: Bar) -> None:
  colour = _BAR_COLOURS[bar.name]
  axes.plot([bar.low, bar.high], [y, y], color=colour, lw=2.2, solid_capstyle='butt')
  axes.plot([bar.value], [y], marker='o' if bar.name == 'base' else 'D', ms=7, color=colour)
  alignment = 'center'
  if bar.value < 0.3:
    alignment = 'left'
  elif bar.value > 0.7:
    alignment = 'right'
  axes.annotate(
    f'{bar.name}  {bar.value:.3f}  [{bar.low:.3f}, {bar.high:.3f}]',
    (bar.value, y),
    xytext=(0, 9),
    textcoords='offset points',
    ha=alignment,
  )


def _trials(axes, points: Sequence[Point], *, spread: float, size: float) -> dict[int, float]:
  """Anchors and explorers side by side in worker order.

  Returns:
    Round -> where the mean of its anchors stands on the horizontal axis.
  """
  numbers = _numbers(points)
  line: dict[int, tuple[float, float]] = {}
  for number in numbers:
    placed = _placed([p for p in points if p.round == number], spread)
    for x, point in placed:
      _trial(axes, x, point, size)
    _labels(axes, placed, last=number == numbers[-1])
    xs = [x for x, point in placed if point.anchor]
    values = [point.value for _, point in placed if point.anchor]
    if xs:
      line[number] = (sum(xs) / len(xs), sum(values) / len(values))
  if len(line) > 1:
    axes.plot(*zip(*line.values(), strict=True), color=ANCHOR, lw=1.4 * size, zorder=3)
  return {number: x for number, (x, _) in line.items()}


def _placed(points: Sequence[Point], spread: float) -> list[tuple[float, Point]]:
  """A round's points with their positions, which take up `spread` around the round's number."""
  if len(points) == 1:
    return [(points[0].round, points[0])]
  step = spread / (len(points) - 1)
  return [(p.round - spread / 2 + i * step, p) for i, p in enumerate(points)]


def _trial(axes, x: float, point: Point, size: float) -> None:
  colour = EXPLORER
  if point.anchor:
    colour = ANCHOR
  if point.promoted:
    colour = PROMOTED
  stressed = point.anchor or point.promoted
  axes.plot(
    [x, x],
    [point.low, point.high],
    color=colour,
    lw=(1.3 if stressed else 0.9) * size,
    zorder=2,
  )
  axes.plot(
    [x],
    [point.value],
    marker='D' if point.anchor else 'o',
    ms=(5 if stressed else 3.6) * size,
    color=colour,
    zorder=5 if point.anchor else 4,
  )
  if point.promoted:
    axes.plot(
      [x], [point.value], marker='o', ms=8.5 * size, color=colour, mfc='none', mew=1, zorder=4
    )


def _labels(axes, placed: Sequence[tuple[float, Point]], *, last: bool) -> None:
  """Names above a round's trials, the rightmost lowest.

  Each has a thin line down to its trial, so that none overlap.
  """
  top = max(point.high for _, point in placed)
  labelled = [(x, point) for x, point in placed if point.label]
  for level, (x, point) in enumerate(reversed(labelled)):
    axes.annotate(
      point.label,
      xy=(x, point.high),
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
  """The figure as an <svg> element for HTML.

  Ids are made unique by `name`, colours are variables; prolog, namespaces and metadata are gone.
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
