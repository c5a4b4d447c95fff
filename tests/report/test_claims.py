"""What a report claims of a run: one row a state, with what headline, page and terminal have to say
of it, and what they must not.
"""

import dataclasses
import re

import pytest

from aevo_jax.report import claims
from aevo_jax.report.final_table import final_table
from aevo_jax.report.page import html
from aevo_jax.report.page.figures import Figures
from aevo_jax.report.rows import Change
from aevo_jax.report.run_view import RunView

# Drawing takes longer than all the rest, and other tests look at drawings.
NOT_DRAWN = Figures(None, None, None, (), (0.0, 1.0))
SEEDS = ('starting0', 'starting1', 'promoted0', 'promoted1')
FAILED = {1: {1: 'failed', 2: 'refused', 3: 'failed'}, 2: {1: 'failed', 2: 'failed', 3: 'failed'}}


def accuracy(starting, promoted, base=0.1):
  """Accuracies of the final: a number, or one for each seed or each kind."""
  pairs = [each if isinstance(each, tuple) else (each, each) for each in (starting, promoted)]
  return {'base': base, **dict(zip(SEEDS, [*pairs[0], *pairs[1]], strict=True))}


@dataclasses.dataclass
class State:
  """A run, what its headline is, what else is said in page or terminal, and what in neither."""

  run: dict
  headline: str
  says: tuple = ()
  never: tuple = ()


# One family gains much, the other loses; then a kind alone loses.
MIXED = {'affine': 0.95, 'nonlinear': 0.95, 'additive': 0.2, 'subtractive': 0.2}
ONE_KIND = {'affine': 0.95, 'nonlinear': 0.95, 'additive': 0.95, 'subtractive': 0.2}
BEATS = 'The promoted recipe beats the starting recipe by +0.200'
NO_COMPARISON = 'Finished without a comparison: the final retrainings could not all be scored.'
PROMOTED = 'The promoted recipe'
STATES = {
  'a gain': State({}, f'{BEATS}.', ('gained +0.200',), ('Worse', 'WORSE', 'NOTE')),
  'noise': State(
    {'accuracy': accuracy((0.5, 0.6), (0.6, 0.5))},
    'Gain within noise: the promoted recipe is not shown to beat the starting one.',
    ('within noise',),
    ('gained +0.0', 'beats'),
  ),
  'a loss': State(
    {'accuracy': accuracy(0.8, 0.4)},
    'The promoted recipe is worse than the starting recipe, by \N{MINUS SIGN}0.400.',
    ('LOST -0.400',),
    ('beats',),
  ),
  'a loss against a base that was better, too': State(
    {'accuracy': accuracy(0.8, 0.4, base=0.9)},
    'The promoted recipe is worse than the starting recipe, by \N{MINUS SIGN}0.400, and is worse '
    'than the base, by \N{MINUS SIGN}0.500.',
    ('LOST -0.400', 'LOST -0.500'),
  ),
  'a gain with a family that lost': State(
    {'accuracy': accuracy(0.5, MIXED), 'items': 800},
    'The promoted recipe beats the starting recipe by +0.075, but is worse on numeral conversion, '
    'by \N{MINUS SIGN}0.300.',
    ('WORSE on numeral conversion: -0.300 [', 'Worse on numeral conversion'),
  ),
  'a gain with a rule kind that lost': State(
    {'accuracy': accuracy(0.5, ONE_KIND)},
    'The promoted recipe beats the starting recipe by +0.262, but is worse on subtractive numeral '
    'conversion, by \N{MINUS SIGN}0.300.',
    ('WORSE on subtractive numeral conversion',),
  ),
  'noise above a base that was better': State(
    {'accuracy': accuracy((0.5, 0.55), (0.55, 0.5), base=0.95)},
    'Gain within noise: the promoted recipe is not shown to beat the starting one, but is worse '
    'than the base, by \N{MINUS SIGN}0.425.',
    ('LOST -0.425',),
  ),
  'nothing promoted, and seeds that differ': State(
    {'promote': False, 'accuracy': accuracy(0.5, 0.6)},
    'Nothing was promoted: no change cleared the noise floor.',
    ('seeds of the starting recipe differ by', 'other seeds', 'noise between seeds'),
    (PROMOTED, 'the promoted recipe', 'gained +0.100', 'beats'),
  ),
  'nothing promoted, and seeds that seem worse': State(
    {'promote': False, 'accuracy': accuracy(0.6, MIXED)},
    'Nothing was promoted: no change cleared the noise floor.',
    ('noise between seeds',),
    (PROMOTED, 'LOST', 'WORSE', 'Worse', 'a loss'),
  ),
  'nothing promoted, and a base that was better': State(
    {'promote': False, 'accuracy': accuracy(0.5, 0.5, base=0.9)},
    'Nothing was promoted: no change cleared the noise floor. The starting recipe is worse than '
    'the base, by \N{MINUS SIGN}0.400.',
    ('the starting recipe, on other seeds, LOST -0.400',),
    (PROMOTED,),
  ),
  'nothing promoted since no explorer was scored': State(
    {'promote': False, 'outcomes': FAILED},
    'Nothing was promoted: none of 6 explorers was scored.',
    ('No promotion: no explorer was scored.',),
    ('no change cleared',),
  ),
  'nothing promoted since there was no explorer': State(
    {'promote': False, 'rounds': 0},
    'Nothing was promoted: no trial changed the starting recipe.',
    ('ended after round 0 of 2: 90 s of 100 are spent',),
    ('no change cleared',),
  ),
  'rounds that the clock ended': State(
    {'rounds': 1}, f'{BEATS}.', ('The rounds ended after round 1 of 2: 90 s of 100 are spent.',)
  ),
  'one seed each': State(
    {'final_seeds': 1},
    f'{BEATS}, on one seed.',
    ('Of one retraining (promoted) the interval leaves out variation between seeds.',),
  ),
  'a retraining without a score': State(
    {'unscored': ('promoted1',)},
    f'{BEATS}, on one seed.',
    ('1 of 2 retrainings (promoted) could be scored.',),
  ),
  'a promoted recipe without a score': State(
    {'unscored': ('promoted0', 'promoted1')},
    NO_COMPARISON,
    ('0 of 2 retrainings (promoted) could be scored.', 'no retraining (promoted) could be'),
    ('beats', 'over the starting recipe'),
  ),
  'a starting recipe without a score': State(
    {'unscored': ('starting0', 'starting1')},
    NO_COMPARISON,
    ('0 of 2 retrainings (starting) could be scored.', 'no retraining (starting) could be'),
    ('beats',),
  ),
  'no retraining with a score': State(
    {'unscored': ('base', *SEEDS)},
    NO_COMPARISON,
    ('no retraining could be scored, so nothing is known of the final set',),
    ('is not scored yet',),
  ),
  'a reversal that was seen': State(
    {'verdicts': {1: {'overall': 'coupled'}, 2: {'overall': 'decoupled', 'sums': 'reversed'}}},
    f'{BEATS}.',
    (
      'Dev does not track the external score on overall: decoupled in round 2.',
      'Dev does not track the external score on sums: reversed in round 2.',
    ),
  ),
  'verdicts without an alarm': State(
    {'verdicts': {1: {'overall': 'coupled'}, 2: {'overall': 'undetermined'}}},
    f'{BEATS}.',
    (),
    ('Dev does not track',),
  ),
  'rates near 1': State(
    {'accuracy': accuracy((1.0, 0.9), (1.0, 0.95), base=1.0)},
    'Gain within noise: the promoted recipe is not shown to beat the starting one.',
  ),
  'seeds that differ as much as rates can': State(
    {'seed_sd': 0.5},
    f'{BEATS}.',
    ('+0.150 [\N{MINUS SIGN}1.000, +1.000]',),
  ),
  'rates near 0': State(
    {'accuracy': accuracy((0.0, 0.1), (1.0, 0.9), base=0.0)},
    'The promoted recipe beats the starting recipe by +0.900.',
  ),
}
for until in ('started', 'round 0', 'round 1', 'final scored'):
  STATES[f'unfinished after {until}'] = State(
    {'until': until, 'promote': until != 'round 1'},
    '',
    ('aevo campaign --resume=', 'partial report'),
    ('beats', 'was promoted:', PROMOTED),
  )
INTERVAL = re.compile(r'\[([+\N{MINUS SIGN}-]?\d+\.\d+), ([+\N{MINUS SIGN}-]?\d+\.\d+)\]')


def visible(page: str) -> str:
  """The text of a page, without its style, tags and doubled white space."""
  text = re.sub(r'<style>.*?</style>|<title>.*?</title>|<[^>]*>', ' ', page, flags=re.S)
  text = ' '.join(text.replace('&#39;', "'").split())
  return re.sub(r' ([:.,;])', r'\1', text)


def number(text: str) -> float:
  return float(text.replace('\N{MINUS SIGN}', '-'))


@pytest.mark.parametrize('state', STATES.values(), ids=STATES.keys())
def test_headline_page_and_terminal_say_the_same(make_run, state):
  view = RunView(make_run(**state.run))
  page = html.render(view, NOT_DRAWN)
  terminal = final_table(view)
  text = visible(page)
  if state.headline:
    assert claims.headline(view) == state.headline
    assert f'<p class="headline">{state.headline}</p>' in page
  else:
    assert '<p class="headline">Unfinished: ' in page and 'UNFINISHED: ' in terminal
  for sentence in state.says:
    assert sentence in text or sentence in terminal, sentence
  for sentence in state.never:
    assert sentence not in text and sentence not in terminal, sentence
  for ends in INTERVAL.findall(f'{text}\n{terminal}'):
    # Both ends of a difference have a sign; the upper one of a rate has none.
    least = -1.0 if ends[1][0] in '+-\N{MINUS SIGN}' else 0.0
    assert all(least <= number(end) <= 1.0 for end in ends), ends


def test_nothing_promoted_is_green_nowhere(make_run):
  page = html.render(RunView(make_run(promote=False, accuracy=accuracy(0.5, 0.8, base=0.5))))
  figures = page.split('<div class="figures">')[1].split('<div class="grid">')[0]
  # What is large is the starting recipe over the base, and never over itself.
  assert figures.count('class="number"') == 1 and 'of the starting recipe on other seeds' in figures
  apart = page.split('The final set, taken apart')[1].split('What was tried')[0]
  assert 'class="gain"' not in apart and 'svg' not in apart
  assert 'other seeds 0.800' in page and 'promoted 0.800' not in page


def test_explorers_are_described_as_they_were(make_run):
  view = RunView(make_run())
  said = 'changes the standing recipe on one axis or several at once; an axis is a named group'
  text = visible(html.render(view, NOT_DRAWN))
  assert said in text and 'group of settings. Here they changed 1 dev' in text
  changes = [
    Change(selector, 'a', 'b') for selector in ('train.ema_decay', 'optimizer.learning_rate')
  ]
  round_ = view.rounds[2]
  more = dataclasses.replace(round_.trials[1], changes=tuple(changes))
  trials = (round_.trials[0], more, *round_.trials[2:])
  view.__dict__['rounds'] = (*view.rounds[:2], dataclasses.replace(round_, trials=trials))
  assert view.axes_changed == (1, 2)
  assert 'Here they changed 1 to 2 dev' in visible(html.render(view, NOT_DRAWN))
