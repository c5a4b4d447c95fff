"""Generate, extract, compare: the score of one set of weights on one set of items, item by item."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import tokenizers

from aevo_jax.data.chat_template import MICRO, ChatFormat
from aevo_jax.generation.sampler import Sampler
from aevo_jax.models.params import Params, Structure
from aevo_jax.stats.intervals import wilson
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item


@dataclasses.dataclass(frozen=True)
class ItemResult:
  """One item's outcome: the extracted answer (None without a box), and whether it is right by
  either comparison of the puzzles; `chosen`: by the one that the constitution names, where that is
  a third."""

  family: str
  kind: str
  answer: str | None
  strict: bool
  challenge: bool
  chosen: bool | None = None

  def right(self, verifier: str) -> bool:
    """Whether it is right by the comparison of that name: one of the puzzles', or the one it was
    judged by.
    """
    return getattr(self, verifier) if verifier in _ALWAYS else self.chosen


_ALWAYS = ('strict', 'challenge')


def judge(item: Item, answer: str | None, verifier: str) -> ItemResult:
  """An answer to an item by the two comparisons of the puzzles, and by `verifier` where it is
  another one.
  """
  return ItemResult(
    item.family,
    item.kind,
    answer,
    verify.strict(item.family, answer, item.answer),
    verify.challenge(item.family, answer, item.answer),
    None if verifier in _ALWAYS else verify.named(verifier)(item.family, answer, item.answer),
  )


class Scorer:
  """Scores weights on a fixed list of items with one compiled sampler, asked in the base's chat
  format and judged by `verifier`. sampler: takes the place of the one of this process, called
  alike."""

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
    self._items, self._tokenizer, self._verifier, self._stops = (
      list(items),
      tokenizer,
      verifier,
      chat.stops,
    )
    self._prompts = [
      tokenizer.encode(chat.prompt(item.question), add_special_tokens=False).ids for item in items
    ]
    self._sampler = sampler or Sampler(
      structure,
      eos_id=tokenizer.token_to_id(chat.eos),
      pad_id=tokenizer.token_to_id(chat.pad),
      max_new_tokens=max_new_tokens,
    )

  def __call__(self, params: Params) -> list[ItemResult]:
    """Greedy completions of every item, compared with its key."""
    return [
      judge(item, answer, self._verifier)
      for item, answer in zip(self._items, self._answers(self._sampler(params, self._prompts)))
    ]

  def sampled(
    self, params: Params, seeds: Sequence[Sequence[int]], temperature: float
  ) -> list[list[str | None]]:
    """The answers of sampled completions: of every item as many as it has seeds."""
    prompts = [prompt for prompt, own in zip(self._prompts, seeds, strict=True) for _ in own]
    answers = iter(
      self._answers(
        self._sampler(
          params, prompts, seeds=[seed for own in seeds for seed in own], temperature=temperature
        )
      )
    )
    return [[next(answers) for _ in own] for own in seeds]

  def _answers(self, completions: Sequence[Sequence[int]]) -> list[str | None]:
    cut = (
      ids[: next((k for k, token in enumerate(ids) if token in self._stops), len(ids))]
      for ids in completions
    )
    return [
      verify.extract_boxed(self._tokenizer.decode(ids, skip_special_tokens=False)) for ids in cut
    ]


def summary(results: Sequence[ItemResult], verifier: str) -> dict:
  """{'overall', 'by_family', 'by_kind', 'other_verifier'}: each {'correct', 'total', 'accuracy',
  'low', 'high'} with Wilson intervals.
  """
  other = 'challenge' if verifier == 'strict' else 'strict'
  families, kinds = defaultdict(list), defaultdict(list)
  for result in results:
    families[result.family].append(result.right(verifier))
    kinds[f'{result.family}/{result.kind}'].append(result.right(verifier))
  return {
    'verifier': verifier,
    'overall': _proportion([r.right(verifier) for r in results]),
    'by_family': {name: _proportion(values) for name, values in sorted(families.items())},
    'by_kind': {name: _proportion(values) for name, values in sorted(kinds.items())},
    'other_verifier': {'verifier': other} | _proportion([r.right(other) for r in results]),
  }


def _proportion(values: Sequence[bool]) -> dict:
  correct, total = sum(values), len(values)
  interval = wilson(correct, total)
  return {
    'correct': correct,
    'total': total,
    'accuracy': round(correct / total, 6),
    'low': round(interval.low, 6),
    'high': round(interval.high, 6),
  }


def to_rows(results: Sequence[ItemResult]) -> list[list]:
  """Compact JSON form, one [family, kind, answer, strict, challenge] per item, and `chosen` after
  them where it is known.
  """
  return [list(dataclasses.astuple(r)[: 5 if r.chosen is None else 6]) for r in results]


def from_rows(rows: Sequence[Sequence]) -> list[ItemResult]:
  """Inverse of `to_rows`."""
  return [ItemResult(*row) for row in rows]
