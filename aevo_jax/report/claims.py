"""What a report may say of a run: its headline, its gains as sentences, and what qualifies them.

Terminal, page and model card take their sentences from here, so that none claims what another
denies. Where nothing was promoted, the retrainings that are called promoted have the starting
recipe: between them and the others lies chance alone.
"""

from typing import NamedTuple

from aevo_jax.meta_agent.drift.trust import ALARMS
from aevo_jax.report import timeline
from aevo_jax.report.gains import BASE, PROMOTED, STARTING, Gain
from aevo_jax.report.run_view import RunView

OVER = {BASE: 'the base', STARTING: 'the starting recipe'}
OTHER_SEEDS = 'other seeds'
_NAMED = 2  # regressions that the headline names


class Regression(NamedTuple):
  """A loss whose interval leaves out 0: on which items, and against which weights."""

  where: str
  over: str
  gain: Gain


def signed(value: float) -> str:
  """Writes a difference of accuracies with its sign: '+0.043'."""
  return f'{value:+.3f}'.replace('-', '\N{MINUS SIGN}')


def names(view: RunView) -> dict[str, str]:
  """Returns what the groups of the final are called: 'base', 'starting' and 'promoted'.

  Args:
    view: the run. Where it promoted nothing, the third are 'other seeds'.
  """
  promoted = PROMOTED if view.promoted else OTHER_SEEDS
  return {BASE: BASE, STARTING: STARTING, PROMOTED: promoted}


def nothing_promoted(view: RunView) -> str:
  """Says why nothing was promoted, without a full stop."""
  explorers = [trial for round_ in view.rounds for trial in round_.trials if not trial.anchor]
  scored = [trial for trial in explorers if trial.dev is not None]
  if not explorers:
    return 'Nothing was promoted: no trial changed the starting recipe'
  if not scored:
    return f'Nothing was promoted: none of {len(explorers)} explorers was scored'
  return 'Nothing was promoted: no change cleared the noise floor'


def headline(view: RunView) -> str:
  """Says in one sentence what a finished run has shown.

  Args:
    view: the run, finished.

  Returns:
    A sentence with its full stop. A regression whose interval leaves out 0 stands in it.
  """
  if view.manual:
    return 'Scored by somebody else: no private final set, and no gain is claimed here.'
  gain = view.results.gains.get(STARTING)
  if gain is None:
    return 'Finished without a comparison: the final retrainings could not all be scored.'
  seeds = min(view.results.scores[name].seeds for name in (STARTING, PROMOTED))
  found = regressions(view)
  if gain.verdict == 'loss':
    # Its parts are in the page; what the headline says of the whole is enough.
    found = [regression for regression in found if not regression.where]
  worse = _worse(found)
  if not view.promoted:
    sentence = nothing_promoted(view)
    return f'{sentence}. The starting recipe {worse}.' if worse else f'{sentence}.'
  but = 'but'
  if gain.verdict == 'gain':
    sentence = f'The promoted recipe beats the starting recipe by {signed(gain.value)}'
    if seeds == 1:
      sentence += ', on one seed'
  elif gain.verdict == 'loss':
    but = 'and'
    sentence = f'The promoted recipe is worse than the starting recipe, by {signed(gain.value)}'
  else:
    sentence = 'Gain within noise: the promoted recipe is not shown to beat the starting one'
  return f'{sentence}, {but} {worse}.' if worse else f'{sentence}.'


def _worse(found: list[Regression]) -> str:
  """Regressions as what a recipe does: 'is worse on sums, by -0.1'; '' without any."""
  if not found:
    return ''
  parts = []
  for regression in found[:_NAMED]:
    against = '' if regression.over == STARTING else f' than {OVER[regression.over]}'
    on = f' on {regression.where}' if regression.where else ''
    parts.append(f'worse{against}{on}, by {signed(regression.gain.value)}')
  more = f', and on {len(found) - _NAMED} more' if len(found) > _NAMED else ''
  return f'is {" and ".join(parts)}{more}'


def regressions(view: RunView) -> list[Regression]:
  """Finds what got worse beyond chance, the largest loss first.

  Args:
    view: the run.

  Returns:
    Losses against the base, and against the starting recipe on parts of the final set: families,
    and rule kinds of families that are no loss as a whole. Where nothing was promoted there is no
    second recipe, so that the first remain.
  """
  results = view.results
  found = []
  over_base = results.gains.get(BASE)
  if over_base is not None and over_base.verdict == 'loss':
    found.append(Regression('', BASE, over_base))
  if not view.promoted:
    return found
  parts = []
  families = _losses(results.by_family)
  if len(results.by_family) > 1:
    parts += [Regression(name.replace('_', ' '), STARTING, gain) for name, gain in families.items()]
  if not view.constitution.tasks.path:
    for name, gain in _losses(results.by_kind).items():
      family, _, kind = name.partition('/')
      if family not in families:
        parts.append(Regression(f'{kind} {family.replace("_", " ")}', STARTING, gain))
  return found + sorted(parts, key=lambda part: part.gain.value)


def _losses(parts) -> dict[str, Gain]:
  """Parts of the final set with a loss against the starting recipe."""
  losses = {}
  for name, results in parts.items():
    gain = results.gains.get(STARTING)
    if gain is not None and gain.verdict == 'loss':
      losses[name] = gain
  return losses


def warnings(view: RunView) -> list[str]:
  """Lists what a reader has to know before a gain is believed.

  Args:
    view: the run.

  Returns:
    Sentences: rounds that were not run, drift between dev and the target, retrainings without a
    score, seeds too few, scores that were given up.
  """
  said = []
  exhausted = view.state.exhausted
  if exhausted:
    planned = view.constitution.budget.rounds
    said.append(
      f'The rounds ended after round {exhausted["round"]} of {planned}: {exhausted["reason"]}.'
    )
  said += _alarms(view)
  said += _unseen(view)
  finished = view.state.finished is not None
  if finished and not view.manual:
    said += _unscored(view)
  waived = [trial for trial in view.state.trials.values() if trial.waived]
  if waived:
    said.append(f'{len(waived)} external scores were given up.')
  return said


def _alarms(view: RunView) -> list[str]:
  """The first alarm of every stream, and departures of proxies from their consensus."""
  first: dict[str, str] = {}
  for round_, streams in sorted(view.state.verdicts.items()):
    for stream, verdict in streams.items():
      if verdict['verdict'] in ALARMS:
        first.setdefault(stream, f'{verdict["verdict"].replace("_", " ")} in round {round_}')
  said = []
  for stream, what in sorted(first.items()):
    said.append(f'Dev does not track the external score on {stream.replace("_", " ")}: {what}.')
  for judgement in view.judgements:
    for departure in judgement.departures:
      if departure.verdict in ALARMS:
        stream = departure.stream.replace('_', ' ')
        said.append(
          f'The proxy {departure.proxy} departs from the others on {stream}: '
          f'{departure.verdict} in round {judgement.round}.'
        )
  return said


def _unseen(view: RunView) -> list[str]:
  """What the verdicts of the last round could not have seen."""
  if not view.state.verdicts:
    return []
  last = max(view.state.verdicts)
  seen: dict[str, list[float]] = {}
  for verdict in view.state.verdicts[last].values():
    for effect, size in timeline.detectable(verdict).items():
      seen.setdefault(effect, []).append(size)
  if not seen:
    return [f'No verdict of round {last} could have detected anything, whatever dev did.']
  gains = seen.get('dev_gain')
  if gains is None:
    return [
      f'No verdict of round {last} could have seen a flaw of dev that all trials of a round share.'
    ]
  return [
    f'In round {last} the verdicts could have seen a dev gain of {min(gains):.2f} to '
    f'{max(gains):.2f} that does not arrive on the external set, by stream.'
  ]


def _unscored(view: RunView) -> list[str]:
  """Retrainings of the final without a score, and what one seed leaves out."""
  planned = view.constitution.budget.final_seeds
  called = names(view)
  said = []
  for name in (STARTING, PROMOTED):
    score = view.results.scores.get(name)
    seeds = 0 if score is None else score.seeds
    if seeds < planned:
      said.append(f'{seeds} of {planned} retrainings ({called[name]}) could be scored.')
    if seeds == 1 and view.results.gains:
      said.append(
        f'Of one retraining ({called[name]}) the interval leaves out variation between seeds.'
      )
  return said


def sentences(view: RunView) -> list[str]:
  """Says what was gained and what got worse, without full stops.

  Args:
    view: the run; before the reveal nothing is said.
  """
  said = []
  for over, gain in view.results.gains.items():
    said.append(gain_sentence(view, gain, over))
  for regression in regressions(view):
    if regression.where:
      said.append(
        f'WORSE on {regression.where}: {_interval(regression.gain)} against {OVER[regression.over]}'
      )
  return said


def gain_sentence(view: RunView, gain: Gain, over: str) -> str:
  """Writes a gain of the final as a sentence.

  Args:
    view: the run.
    gain: of the retrainings that are called promoted.
    over: 'base' or 'starting'.

  Returns:
    Without a full stop. Of a run that promoted nothing it claims no gain over the starting recipe.
  """
  if view.promoted:
    return f'the promoted recipe {gain_words(gain, over)}'
  if over == BASE:
    return f'the starting recipe, on other seeds, {gain_words(gain, over)}'
  return (
    'nothing was promoted: two sets of seeds of the starting recipe differ by '
    f'{_interval(gain)}, which is noise between seeds'
  )


def gain_words(gain: Gain, over: str) -> str:
  """Writes what a recipe gained.

  Args:
    gain: with its interval.
    over: 'base' or 'starting'.

  Returns:
    For example 'gained +0.043 [+0.021, +0.066] over the starting recipe'.
  """
  if gain.verdict == 'gain':
    return f'gained {_interval(gain)} over {OVER[over]}'
  if gain.verdict == 'loss':
    return f'LOST {_interval(gain)} against {OVER[over]}'
  return f'{_interval(gain)} against {OVER[over]}: within noise, no gain is shown'


def _interval(gain: Gain) -> str:
  return f'{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]'
