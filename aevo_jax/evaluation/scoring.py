"""Scores of one set of weights on one set of items: generate, extract, compare, item by item."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import tokenizers

from aevo_jax.data.chat_template import MICRO, ChatFormat
from aevo_jax.generation.sampler import Sampler
from aevo_jax.models.params import Params, Structure
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item

_ALWAYS = ('strict', 'challenge')  # comparisons that every answer is judged by


@dataclasses.dataclass(frozen=True)
class ItemResult:
  """One item's outcome.

  Attributes:
    family: the item's family.
    kind: the item's rule kind.
    answer: the extracted answer, None without a box.
    strict: whether it is right by the strict comparison of the puzzles.
    challenge: whether it is right by the challenge's comparison.
    chosen: whether it is right by the comparison that the constitution names, where that is a
      third.
  """

  family: str
  kind: str
  answer: str | None
  strict: bool
  challenge: bool
  chosen: bool | None = None

  def right(self, verifier: str) -> bool:
    """Tells whether the answer is right.

    Args:
      verifier: a comparison of the puzzles, or the one that the answer was judged by.

    Returns:
      The outcome of that comparison.
    """
    if verifier in _ALWAYS:
      return getattr(self, verifier)
    return self.chosen


def judge(item: Item, answer: str | None, verifier: str) -> ItemResult:
  """Compares an answer with an item's key.

  Args:
    item: the item.
    answer: the extracted answer, None without a box.
    verifier: the comparison that the constitution names.

  Returns:
    The outcome by both comparisons of the puzzles, and by `verifier` where it is another one.
  """
  chosen = None
  if verifier not in _ALWAYS:
    chosen = verify.named(verifier)(item.family, answer, item.answer)
  return ItemResult(
    family=item.family,
    kind=item.kind,
    answer=answer,
    strict=verify.strict(item.family, answer, item.answer),
    challenge=verify.challenge(item.family, answer, item.answer),
    chosen=chosen,
  )


class Scorer:
  """Scores weights on a fixed list of items with one compiled sampler.

  Args:
    structure: of the model.
    tokenizer: of the base.
    items: what is asked, in this order.
    max_new_tokens: tokens of a completion.
    chat: the base's chat format.
    verifier: the comparison of answers.
    sampler: takes the place of the sampler of this process, and is called like it.
  """

  def __init__(
    self,
    structure: Structure,
    tokenizer: tokenizers.Tokenizer,
    items: Sequence[Item],
    *,
    max_new_tokens: int,
    chat: ChatFormat = MICRO,
    verifier: str = 'strict',
    sampler: Callable[..., list[list[int]]] | None = None,
  ):
    self._items = list(items)
    self._tokenizer = tokenizer
    self._verifier = verifier
    self._stops = chat.stops
    self._prompts = []
    for item in items:
      prompt = tokenizer.encode(chat.prompt(item.question), add_special_tokens=False)
      self._prompts.append(prompt.ids)
    self._sampler = sampler or Sampler(
      structure,
      eos_id=tokenizer.token_to_id(chat.eos),
      pad_id=tokenizer.token_to_id(chat.pad),
      max_new_tokens=max_new_tokens,
    )

  def __call__(self, params: Params) -> list[ItemResult]:
    """Completes every item greedily and compares it with its key."""
    answers = self._answers(self._sampler(params, self._prompts))
    pairs = zip(self._items, answers, strict=True)
    return [judge(item, answer, self._verifier) for item, answer in pairs]

  def sampled(
    self, params: Params, seeds: Sequence[Sequence[int]], temperature: float
  ) -> list[list[str | None]]:
    """Samples completions of every item.

    Args:
      params: the weights.
      seeds: for each item as many seeds as it gets completions.
      temperature: of the sampling.

    Returns:
      For each item its extracted answers, in the order of its seeds.
    """
    prompts = []
    all_seeds = []
    for prompt, of_item in zip(self._prompts, seeds, strict=True):
      prompts += [prompt] * len(of_item)
      all_seeds += of_item
    completions = self._sampler(params, prompts, seeds=all_seeds, temperature=temperature)
    remaining = iter(self._answers(completions))
    return [list(itertools.islice(remaining, len(of_item))) for of_item in seeds]

  def _answers(self, completions: Sequence[Sequence[int]]) -> list[str | None]:
    """The answers of completions, each up to its first stop token."""
    answers = []
    for ids in completions:
      end = next((k for k, token in enumerate(ids) if token in self._stops), len(ids))
      text = self._tokenizer.decode(ids[:end], skip_special_tokens=False)
      answers.append(verify.extract_boxed(text))
    return answers


def summary(results: Sequence[ItemResult], verifier: str) -> dict:
  """Counts right answers.

  Args:
    results: at least one.
    verifier: the comparison that counts.

  Returns:
    'overall', 'by_family', 'by_kind' (by family/kind) and 'other_verifier'. Each proportion is
    {'correct', 'total', 'accuracy', 'low', 'high'} with a 95% Wilson interval.
  """
  other = 'challenge' if verifier == 'strict' else 'strict'
  marks = []
  other_marks = []
  families = defaultdict(list)
  kinds = defaultdict(list)
  for result in results:
    right = result.right(verifier)
    marks.append(right)
    other_marks.append(result.right(other))
    families[result.family].append(right)
    kinds[f'{result.family}/{result.kind}'].append(right)
  return {
    'verifier': verifier,
    'overall': _proportion(marks),
    'by_family': {name: _proportion(values) for name, values in sorted(families.items())},
    'by_kind': {name: _proportion(values) for name, values in sorted(kinds.items())},
    'other_verifier': {'verifier': other} | _proportion(other_marks),
  }


def _proportion(marks: Sequence[bool]) -> dict:
  correct = sum(marks)
  total = len(marks)
  interval = wilson(correct, total)
  return {
    'correct': correct,
    'total': total,
    'accuracy': round(correct / total, 6),
    'low': round(interval.low, 6),
    'high': round(interval.high, 6),
  }


def to_rows(results: Sequence[ItemResult]) -> list[list]:
  """Writes results as compact JSON.

  Args:
    results: of one set of items.

  Returns:
    [family, kind, answer, strict, challenge] for each, and `chosen` behind where it is known.
  """
  rows = []
  for result in results:
    row = list(dataclasses.astuple(result))
    if result.chosen is None:
      del row[-1]
    rows.append(row)
  return rows


def from_rows(rows: Sequence[Sequence]) -> list[ItemResult]:
  """Reads the rows that `to_rows` writes."""
  return [ItemResult(*row) for row in rows]
