"""The probes: further scores of a candidate, for campaigns without an external target.

What each asks follows from the constitution alone.

  rules       puzzles of the full mixture, rare kinds included, with rules of a split that neither
              training nor dev asks
  families    puzzles of the families that dev leaves out (dev_set.family_weight 0)
  order       the first dev puzzles with their examples in another order
  paraphrase  the same in other words
  options     dev tasks of a multiple choice, their options in another order
  samples     dev items, answered several times at a temperature: pass@k

A probe's answers are kept item by item, so that its score can be computed again (`summary`). Where
it shows dev items in another way, `same` says how many were answered as on dev, right or wrong;
that is reported and is no score: a model with one answer to everything is consistent.
"""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.configurables import LoadError
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import sets
from aevo_jax.evaluation.scoring import Scorer, judge
from aevo_jax.models.params import Params
from aevo_jax.stats.pass_at_k import pass_at_k
from aevo_jax.tasks import mixture as mixture_lib
from aevo_jax.tasks import rewrites
from aevo_jax.tasks.item import Difficulty, Item, Sampled, render
from aevo_jax.tasks.own_data import OwnTasks
from aevo_jax.tasks.rewrites import NoRewriteError

Answers = Sequence[Sequence[str | None]]  # of every item one or, of samples, several


class ProbeError(LoadError):
  """A probe of the constitution does not exist for its items; the message names the fix."""


@dataclasses.dataclass(frozen=True)
class Probe:
  """The items of one probe; all fields go item by item.

  Attributes:
    name: its field in `constitution.Probes`.
    items: what is asked.
    dev: positions of the dev items that they show, () if none.
    before: of options, letter shown -> letter on dev.
    seeds: of samples.
  """

  name: str
  items: tuple[Item, ...]
  dev: tuple[int, ...] = ()
  before: tuple[Mapping[str, str], ...] = ()
  seeds: tuple[tuple[int, ...], ...] = ()


class _DevItems(NamedTuple):
  """Some dev items, with their positions in the dev set."""

  positions: tuple[int, ...]
  items: list[Item]


def build(constitution: Constitution, tasks: OwnTasks | None = None) -> dict[str, Probe]:
  """Builds the probes that the constitution gives items.

  Args:
    constitution: defines them.
    tasks: a user's, None for puzzles.

  Returns:
    Name -> probe, in the order of `constitution.PROBES`.

  Raises:
    ProbeError: one has no items of its kind here: no rules or examples in a user's tasks, no second
      wording of micro puzzles, no options, no family left out.
  """
  return {name: _BUILDERS[name](constitution, tasks) for name in constitution.probes.used()}


def _rules(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  _puzzles_only('rules', tasks)
  rules = constitution.probes
  mixture = dataclasses.replace(
    sets.mixture(constitution.dev_set, constitution.objective.size),
    rare_share=mixture_lib.RareKindShare(),
  )
  items = mixture_lib.sample_set(rules.seed, 'probe', rules.rules, mixture)
  return Probe('rules', tuple(items))


def _families(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  _puzzles_only('families', tasks)
  rules = constitution.probes
  dev = constitution.dev_set
  weights = {}
  for name in mixture_lib.FAMILIES:
    weights[name] = float(dev.family_weight.get(name, 1.0) == 0)
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
  items = mixture_lib.sample_set(rules.seed, 'dev', rules.families, mixture)
  return Probe('families', tuple(items))


def _order(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  _puzzles_only('order', tasks)
  rng = random.Random(f'order|{constitution.probes.seed}')
  items = []
  for shown in _dev_puzzles(constitution, 'order'):
    puzzle = rewrites.reordered(shown.puzzle, rng)
    items.append(render(shown.family, shown.kind, puzzle, constitution.objective.size))
  return Probe('order', tuple(items), dev=tuple(range(len(items))))


def _paraphrase(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  if tasks is not None:
    return _paraphrased_tasks(constitution, tasks)
  if constitution.probes.templates:
    raise ProbeError(
      'probes.templates are for tasks of your own, and the constitution has puzzles, '
      'whose second wording is given; leave them out'
    )
  if constitution.objective.size == 'micro':
    raise ProbeError(
      'probes.paraphrase: micro puzzles have one wording (`tag in>out ... query=?`); use '
      "objective.size = 'standard', or set it to 0 and use probes.order"
    )
  items = []
  for shown in _dev_puzzles(constitution, 'paraphrase'):
    item = render(shown.family, shown.kind, shown.puzzle, 'standard')
    question = rewrites.paraphrased(shown.family.name, shown.puzzle)
    items.append(dataclasses.replace(item, question=question))
  return Probe('paraphrase', tuple(items), dev=tuple(range(len(items))))


def _paraphrased_tasks(constitution: Constitution, tasks: OwnTasks) -> Probe:
  templates = constitution.probes.templates
  if not templates:
    raise ProbeError(
      'probes.paraphrase: tasks of your own have the wording of their lines alone; '
      "give probes.templates some, e.g. ('Answer this: {prompt}',)"
    )
  shown = _of_dev(constitution, tasks, 'paraphrase')
  items = []
  for i, item in enumerate(shown.items):
    question = templates[i % len(templates)].replace('{prompt}', item.question)
    items.append(dataclasses.replace(item, question=question))
  return Probe('paraphrase', tuple(items), dev=shown.positions)


def _options(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  if tasks is None or constitution.objective.verifier != 'choice':
    raise ProbeError(
      'probes.options permutes the options of a multiple choice: tasks of your own under '
      "objective.verifier = 'choice'; set it to 0"
    )
  rng = random.Random(f'options|{constitution.probes.seed}')
  items = []
  letters = []
  try:
    shown = _of_dev(constitution, tasks, 'options')
    for item in shown.items:
      relettered, before = rewrites.relettered(item, rng)
      items.append(relettered)
      letters.append(before)
  except NoRewriteError as error:
    raise ProbeError(
      f'probes.options: {error}; write the options that way, or set it to 0'
    ) from error
  return Probe('options', tuple(items), dev=shown.positions, before=tuple(letters))


def _samples(constitution: Constitution, tasks: OwnTasks | None) -> Probe:
  rules = constitution.probes
  items = _of_dev(constitution, tasks, 'samples').items
  # The same seeds for every candidate: the difference between two of them is then less luck.
  seeds = []
  for i in range(len(items)):
    sequence = np.random.SeedSequence([rules.seed, i])
    seeds.append(tuple(sequence.generate_state(rules.draws).tolist()))
  return Probe('samples', tuple(items), seeds=tuple(seeds))


_BUILDERS = {
  'rules': _rules,
  'families': _families,
  'order': _order,
  'paraphrase': _paraphrase,
  'options': _options,
  'samples': _samples,
}


def _puzzles_only(name: str, tasks: OwnTasks | None) -> None:
  if tasks is not None:
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


def _dev_puzzles(constitution: Constitution, name: str) -> list[Sampled]:
  count = _count(constitution, name)
  dev = constitution.dev_set
  mixture = sets.mixture(dev, constitution.objective.size)
  return mixture_lib.sample_puzzles(dev.seed, 'dev', dev.items, mixture)[:count]


def _of_dev(constitution: Constitution, tasks: OwnTasks | None, name: str) -> _DevItems:
  """The dev items that a probe shows: of puzzles the first ones.

  A user's tasks lie in the dev set family by family, so those are evenly spread.
  """
  items = sets.dev_items(constitution, tasks)
  count = _count(constitution, name)
  positions = range(count)
  if tasks is not None:
    positions = [i * len(items) // count for i in range(count)]
  return _DevItems(tuple(positions), [items[i] for i in positions])


# -- scores ----------------------------------------------------------------------------------------


def summary(
  probe: Probe, answers: Answers, dev_answers: Sequence[str | None], constitution: Constitution
) -> dict:
  """Computes a probe's scores from its answers.

  Args:
    probe: the probe.
    answers: extracted answers, of every item one or, of samples, one for each seed.
    dev_answers: extracted answers of all dev items.
    constitution: names the verifier, and k of pass@k.

  Returns:
    'overall' and 'by_family': {'accuracy', 'total', 'variance'} each, the last of the accuracy by
    the luck of the items. 'same': share of items answered as on dev, None where they are not
    dev's. 'completions': number of answers.
  """
  families: dict[str, list[float]] = defaultdict(list)
  completions = 0
  for item, of_item in zip(probe.items, answers, strict=True):
    families[item.family].append(_item_score(probe, item, of_item, constitution))
    completions += len(of_item)
  scores = []
  for of_family in families.values():
    scores += of_family
  return {
    'overall': _mean(scores),
    'by_family': {name: _mean(of_family) for name, of_family in sorted(families.items())},
    'same': _answered_as_on_dev(probe, answers, dev_answers),
    'completions': completions,
  }


def _item_score(
  probe: Probe, item: Item, answers: Sequence[str | None], constitution: Constitution
) -> float:
  """1 for a right answer, else 0; of samples pass@k."""
  verifier = constitution.objective.verifier
  right = sum(judge(item, answer, verifier).right(verifier) for answer in answers)
  if probe.seeds:
    return pass_at_k(len(answers), right, constitution.probes.k)
  return float(right)


def _answered_as_on_dev(
  probe: Probe, answers: Answers, dev_answers: Sequence[str | None]
) -> float | None:
  if not probe.dev:
    return None
  same = 0
  for i, (answer,) in enumerate(answers):
    on_dev = dev_answers[probe.dev[i]]
    shown = answer
    # The same option has another letter on dev.
    if probe.before:
      shown = probe.before[i].get(_letter(answer), answer)
      on_dev = _letter(on_dev) or on_dev
    same += shown is not None and shown == on_dev
  return round(same / len(answers), 6)


def _letter(answer: str | None) -> str:
  """'B' of `B`, `(b)` or `B.`; '' of anything else."""
  letters = [c for c in answer or '' if c.isalpha()]
  if len(letters) != 1:
    return ''
  return letters[0].upper()


def score(
  scorers: Mapping[str, Scorer], probes: Mapping[str, Probe], params: Params, temperature: float
) -> dict[str, list[list[str | None]]]:
  """Asks a candidate all probes.

  Args:
    scorers: probe -> a scorer of its items.
    probes: the constitution's.
    params: the candidate's weights.
    temperature: of samples.

  Returns:
    Probe -> the extracted answers, item by item.
  """
  answers = {}
  for name, probe in probes.items():
    if probe.seeds:
      answers[name] = scorers[name].sampled(params, probe.seeds, temperature)
    else:
      answers[name] = [[result.answer] for result in scorers[name](params)]
  return answers


def _mean(scores: Sequence[float]) -> dict[str, float]:
  mean = float(np.mean(scores))
  total = len(scores)
  # Half an item on each side, so that a family that is all right or all wrong is not taken for
  # certain.
  spread = float(np.sum((np.asarray(scores) - mean) ** 2)) + 0.25
  return {
    'accuracy': round(mean, 6),
    'total': total,
    'variance': round(spread / total**2, 9),
  }
