"""The probes: further scores of a candidate, for campaigns without an external target. What each
asks follows from the constitution alone.

  rules       puzzles of the full mixture, rare kinds included, with rules of a split that neither
  training nor dev asks families    puzzles of the families that dev leaves out
  (dev_set.family_weight 0) order       the first dev puzzles with their examples in another order
  paraphrase  the same in other words options     dev tasks of a multiple choice, their options in
  another order samples     dev items, answered several times at a temperature: pass@k

A probe's answers are kept item by item, so that its score can be computed again (`summary`). Where
it shows dev items in another way, `same` says how many were answered as on dev, right or wrong;
that is told, and no score: who answers always the same is consistent.
"""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from aevo_jax.config.configurables import LoadError
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import sets
from aevo_jax.evaluation.scoring import Scorer, judge
from aevo_jax.models.params import Params
from aevo_jax.stats.pass_at_k import pass_at_k
from aevo_jax.tasks import mixture as mixture_lib
from aevo_jax.tasks import rewrites
from aevo_jax.tasks.item import Difficulty, Item, render
from aevo_jax.tasks.own_data import OwnTasks
from aevo_jax.tasks.rewrites import NoRewriteError

Answers = Sequence[Sequence[str | None]]  # of every item, one or, of samples, several


class ProbeError(LoadError):
  """The constitution asks for a probe that does not exist for its items; the message names the fix."""


@dataclasses.dataclass(frozen=True)
class Probe:
  """items: what is asked. dev: positions of the dev items that they show, () if none. before: of
  options, letter shown -> letter on dev. seeds: of samples. All item by item.
  """

  name: str
  items: tuple[Item, ...]
  dev: tuple[int, ...] = ()
  before: tuple[Mapping[str, str], ...] = ()
  seeds: tuple[tuple[int, ...], ...] = ()


def build(constitution: Constitution, own: OwnTasks | None = None) -> dict[str, Probe]:
  """The probes that the constitution gives items, in the order of `constitution.PROBES`.

  Raises:
    ProbeError: one has no items of its kind here: no rules or examples in tasks of one's own, no
      second wording of micro puzzles, no options, no family left out.
  """
  return {name: _MAKERS[name](constitution, own) for name in constitution.probes.used()}


def _rules(constitution: Constitution, own: OwnTasks | None) -> Probe:
  _puzzles_only('rules', own)
  mixture = dataclasses.replace(
    sets.mixture(constitution.dev_set, constitution.objective.size),
    rare_share=mixture_lib.RareKindShare(),
  )
  return Probe(
    'rules',
    tuple(
      mixture_lib.sample_set(constitution.probes.seed, 'probe', constitution.probes.rules, mixture)
    ),
  )


def _families(constitution: Constitution, own: OwnTasks | None) -> Probe:
  _puzzles_only('families', own)
  dev = constitution.dev_set
  weights = {name: float(dev.family_weight.get(name, 1.0) == 0) for name in mixture_lib.FAMILIES}
  if not any(weights.values()):
    raise ProbeError(
      'probes.families asks the families that dev leaves out, and dev has them all; give '
      'one the weight 0 in dev_set.family_weight'
    )
  mixture = mixture_lib.Mixture(
    constitution.objective.size,
    mixture_lib.FamilyWeights(**weights),
    mixture_lib.RareKindShare(),
    Difficulty(dev.magnitude, dev.extra_examples),
  )
  return Probe(
    'families',
    tuple(
      mixture_lib.sample_set(constitution.probes.seed, 'dev', constitution.probes.families, mixture)
    ),
  )


def _order(constitution: Constitution, own: OwnTasks | None) -> Probe:
  _puzzles_only('order', own)
  rng = random.Random(f'order|{constitution.probes.seed}')
  shown = _dev_puzzles(constitution, 'order')
  items = (
    render(family, kind, rewrites.reordered(puzzle, rng), constitution.objective.size)
    for family, kind, puzzle in shown
  )
  return Probe('order', tuple(items), dev=tuple(range(len(shown))))


def _paraphrase(constitution: Constitution, own: OwnTasks | None) -> Probe:
  templates = constitution.probes.templates
  if own is not None:
    if not templates:
      raise ProbeError(
        'probes.paraphrase: tasks of your own have the wording of their lines alone; '
        "give probes.templates some, e.g. ('Answer this: {prompt}',)"
      )
    places, items = _of_dev(constitution, own, 'paraphrase')
    return Probe(
      'paraphrase',
      tuple(
        dataclasses.replace(
          item, question=templates[i % len(templates)].replace('{prompt}', item.question)
        )
        for i, item in enumerate(items)
      ),
      dev=places,
    )
  if templates:
    raise ProbeError(
      'probes.templates are for tasks of your own, and the constitution has puzzles, '
      'whose second wording is given; leave them out'
    )
  if constitution.objective.size == 'micro':
    raise ProbeError(
      'probes.paraphrase: micro puzzles have one wording (`tag in>out ... query=?`); use '
      "objective.size = 'standard', or set it to 0 and use probes.order"
    )
  shown = _dev_puzzles(constitution, 'paraphrase')
  return Probe(
    'paraphrase',
    tuple(
      dataclasses.replace(
        render(family, kind, puzzle, 'standard'),
        question=rewrites.paraphrased(family.name, puzzle),
      )
      for family, kind, puzzle in shown
    ),
    dev=tuple(range(len(shown))),
  )


def _options(constitution: Constitution, own: OwnTasks | None) -> Probe:
  if own is None or constitution.objective.verifier != 'choice':
    raise ProbeError(
      'probes.options permutes the options of a multiple choice: tasks of your own under '
      "objective.verifier = 'choice'; set it to 0"
    )
  rng = random.Random(f'options|{constitution.probes.seed}')
  try:
    places, items = _of_dev(constitution, own, 'options')
    shown = [rewrites.relettered(item, rng) for item in items]
  except NoRewriteError as error:
    raise ProbeError(
      f'probes.options: {error}; write the options that way, or set it to 0'
    ) from error
  return Probe(
    'options',
    tuple(item for item, _ in shown),
    dev=places,
    before=tuple(before for _, before in shown),
  )


def _samples(constitution: Constitution, own: OwnTasks | None) -> Probe:
  rules = constitution.probes
  _, items = _of_dev(constitution, own, 'samples')
  # The same seeds for every candidate: what differs between two of them is then less luck.
  drawn = [
    np.random.SeedSequence([rules.seed, i]).generate_state(rules.draws).tolist()
    for i in range(len(items))
  ]
  return Probe('samples', tuple(items), seeds=tuple(map(tuple, drawn)))


_MAKERS = {
  'rules': _rules,
  'families': _families,
  'order': _order,
  'paraphrase': _paraphrase,
  'options': _options,
  'samples': _samples,
}


def _puzzles_only(name: str, own: OwnTasks | None) -> None:
  if own is not None:
    raise ProbeError(
      f'probes.{name} is of the puzzles: what rule, example or kind a task of your own '
      'has is not known; set it to 0'
    )


def _count(constitution: Constitution, name: str) -> int:
  count = getattr(constitution.probes, name)
  if count > constitution.dev_set.items:
    raise ProbeError(
      f'probes.{name} = {count} shows dev items, and dev_set.items is '
      f'{constitution.dev_set.items}; lower it'
    )
  return count


def _dev_puzzles(constitution: Constitution, name: str):
  dev, count = constitution.dev_set, _count(constitution, name)
  return mixture_lib.sample_puzzles(
    dev.seed, 'dev', dev.items, sets.mixture(dev, constitution.objective.size)
  )[:count]


def _of_dev(
  constitution: Constitution, own: OwnTasks | None, name: str
) -> tuple[tuple[int, ...], list[Item]]:
  """Positions in the dev set and their items: of puzzles the first, of tasks of one's own, which
  lie there family by family, evenly spread.
  """
  items, count = sets.dev_items(constitution, own), _count(constitution, name)
  places = (
    tuple(range(count)) if own is None else tuple(i * len(items) // count for i in range(count))
  )
  return places, [items[i] for i in places]


# -- what they say ---------------------------------------------------------------------------------


def summary(
  probe: Probe, answers: Answers, dev_answers: Sequence[str | None], constitution: Constitution
) -> dict:
  """{'overall', 'by_family', 'same', 'completions'}: of all items and of each family {'accuracy',
  'total', 'variance'}, the last of the accuracy by the luck of the items; `same`: share of items
  answered as on dev, None where they are not dev's.

  Args:
    answers: extracted answers, of every item one or, of samples, one for each seed. dev_answers: of
      all dev items.
  """
  verifier = constitution.objective.verifier
  families: dict[str, list[float]] = defaultdict(list)
  for item, given in zip(probe.items, answers, strict=True):
    right = sum(judge(item, answer, verifier).right(verifier) for answer in given)
    families[item.family].append(
      pass_at_k(len(given), right, constitution.probes.k) if probe.seeds else float(right)
    )
  same = None
  if probe.dev:
    shown = [answer for (answer,) in answers]
    on_dev = [dev_answers[place] for place in probe.dev]
    if probe.before:  # the same option under another letter
      shown, on_dev = (
        [before.get(_letter(answer), answer) for before, answer in zip(probe.before, shown)],
        [_letter(answer) or answer for answer in on_dev],
      )
    same = round(sum(a is not None and a == b for a, b in zip(shown, on_dev)) / len(shown), 6)
  return {
    'overall': _mean([x for scores in families.values() for x in scores]),
    'by_family': {name: _mean(scores) for name, scores in sorted(families.items())},
    'same': same,
    'completions': sum(map(len, answers)),
  }


def _letter(answer: str | None) -> str:
  """'B' of `B`, `(b)` or `B.`; '' of anything else."""
  letters = [c for c in answer or '' if c.isalpha()]
  return letters[0].upper() if len(letters) == 1 else ''


def score(
  scorers: Mapping[str, Scorer], probes: Mapping[str, Probe], params: Params, temperature: float
) -> dict[str, list[list[str | None]]]:
  """Probe -> the candidate's answers; `scorers` have the probes' items."""
  return {
    name: scorers[name].sampled(params, probe.seeds, temperature)
    if probe.seeds
    else [[result.answer] for result in scorers[name](params)]
    for name, probe in probes.items()
  }


def _mean(scores: Sequence[float]) -> dict[str, float]:
  # Half an item on each side, so that a family that is all right or all wrong is not taken for
  # certain.
  n, mean = len(scores), float(np.mean(scores))
  spread = float(np.sum((np.asarray(scores) - mean) ** 2)) + 0.25
  return {'accuracy': round(mean, 6), 'total': n, 'variance': round(spread / n**2, 9)}
