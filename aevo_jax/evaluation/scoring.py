"""Generate, extract, compare: the score of one set of weights on one set of items, item by item."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import tokenizers

from aevo_jax.data.chat_format import prompt_text
from aevo_jax.data.tokenizer import EOS, PAD
from aevo_jax.evaluation.intervals import wilson
from aevo_jax.generation.sampler import Sampler
from aevo_jax.models.params import Params, Structure
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item


@dataclasses.dataclass(frozen=True)
class ItemResult:
  """One item's outcome: the extracted answer (None without a box), and whether it is right by either comparison."""

  family: str
  kind: str
  answer: str | None
  strict: bool
  challenge: bool


class Scorer:
  """Scores weights on a fixed list of items with one compiled sampler."""

  def __init__(self, structure: Structure, tokenizer: tokenizers.Tokenizer, items: Sequence[Item], *, max_new_tokens: int):
    self._items, self._tokenizer = list(items), tokenizer
    self._prompts = [tokenizer.encode(prompt_text(item.question), add_special_tokens=False).ids for item in items]
    self._sampler = Sampler(structure, eos_id=tokenizer.token_to_id(EOS), pad_id=tokenizer.token_to_id(PAD), max_new_tokens=max_new_tokens)

  def __call__(self, params: Params) -> list[ItemResult]:
    """Greedy completions of every item, compared with its key."""
    results = []
    for item, ids in zip(self._items, self._sampler(params, self._prompts)):
      answer = verify.extract_boxed(self._tokenizer.decode(ids, skip_special_tokens=False))
      results.append(ItemResult(item.family, item.kind, answer, verify.strict(item.family, answer, item.answer),
                                verify.challenge(item.family, answer, item.answer)))
    return results


def summary(results: Sequence[ItemResult], verifier: str) -> dict:
  """{'overall', 'by_family', 'by_kind', 'other_verifier'}: each {'correct', 'total', 'accuracy', 'low', 'high'} with Wilson intervals."""
  other = 'challenge' if verifier == 'strict' else 'strict'
  families, kinds = defaultdict(list), defaultdict(list)
  for result in results:
    families[result.family].append(getattr(result, verifier))
    kinds[f'{result.family}/{result.kind}'].append(getattr(result, verifier))
  return {
      'verifier': verifier,
      'overall': _proportion([getattr(r, verifier) for r in results]),
      'by_family': {name: _proportion(values) for name, values in sorted(families.items())},
      'by_kind': {name: _proportion(values) for name, values in sorted(kinds.items())},
      'other_verifier': {'verifier': other} | _proportion([getattr(r, other) for r in results]),
  }


def _proportion(values: Sequence[bool]) -> dict:
  correct, total = sum(values), len(values)
  interval = wilson(correct, total)
  return {'correct': correct, 'total': total, 'accuracy': round(correct / total, 6), 'low': round(interval.low, 6), 'high': round(interval.high, 6)}


def to_rows(results: Sequence[ItemResult]) -> list[list]:
  """Compact JSON form, one [family, kind, answer, strict, challenge] per item."""
  return [list(dataclasses.astuple(r)) for r in results]


def from_rows(rows: Sequence[Sequence]) -> list[ItemResult]:
  """Inverse of `to_rows`."""
  return [ItemResult(*row) for row in rows]
