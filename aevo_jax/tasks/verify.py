r"""Answer extraction and comparison.

The answer is the content of the last `\boxed{}` of a completion. Comparisons, of which
`objective.verifier` names one:
  strict     the default: a relative tolerance of 1e-2 for unit_conversion and
    gravitational_constant, exact text for the rest.
  challenge  the public challenge's rule as competitors reimplemented it: equal as case-insensitive
  text, or, if both parse as floats,
             |a - b| <= max(1e-2 max(|a|, |b|), 1e-5). Bit strings parse as floats, so most
             one-bit-wrong answers pass: a flawed proxy by design.
  number     for tasks of one's own: equal as decimal numbers, whatever commas, zeros or sign they
  are written with. choice     for tasks of one's own: the same letter, as in `B`, `(b)` or `B.`.
A comparison of your own is a function (family, answer or None, key) -> bool and a row of VERIFIERS;
it changes the code that a substrate pins.
"""

import decimal
import math
import re
from collections.abc import Callable

from aevo_jax.config.nearest import suggestion

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-2, 1e-5
TOLERANT_FAMILIES = frozenset({'unit_conversion', 'gravitational_constant'})
_THOUSANDS = re.compile(r'(?<=\d),(?=\d{3}(\D|$))', re.ASCII)
_LETTER = re.compile(r'\(?([A-Za-z])[).:]?')
_DECIMAL = re.compile(r'[+-]?(\d+(\.\d*)?|\.\d+)', re.ASCII)


def extract_boxed(completion: str) -> str | None:
  r"""Content of the last complete `\boxed{...}` (braces may nest), stripped; None if there is none."""
  start = completion.rfind('\\boxed{')
  while start != -1:
    depth, begin = 1, start + len('\\boxed{')
    for end in range(begin, len(completion)):
      depth += {'{': 1, '}': -1}.get(completion[end], 0)
      if depth == 0:
        return completion[begin:end].strip()
    start = completion.rfind('\\boxed{', 0, start)
  return None


def _close(a: float, b: float) -> bool:
  # isclose computes the inequality above, and refuses infinities: written out, |inf - b| <= 0.01
  # inf would accept `inf` for any key, and so would a row of 400 nines, which reads as a plain
  # decimal and overflows.
  return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def strict(family: str, answer: str | None, key: str) -> bool:
  """Whether an extracted answer is right. Only plain decimals count as numbers; inf, nan and
  exponents do not.
  """
  if answer is None:
    return False
  if family in TOLERANT_FAMILIES:
    return bool(_DECIMAL.fullmatch(answer)) and _close(float(answer), float(key))
  return answer == key


def challenge(family: str, answer: str | None, key: str) -> bool:
  """The challenge's literal rule, for every family alike."""
  del family
  if answer is None:
    return False
  if answer.lower() == key.lower():
    return True
  try:
    return _close(float(answer), float(key))
  except ValueError:
    return False


def number(family: str, answer: str | None, key: str) -> bool:
  """Equal plain decimals: 1,000 and 1000.0 are one number; fractions, units and exponents are none."""
  del family
  values = [_plain_decimal(text) for text in (answer or '', key)]
  return None not in values and values[0] == values[1]


def _plain_decimal(text: str) -> decimal.Decimal | None:
  text = _THOUSANDS.sub('', text.strip())
  return decimal.Decimal(text) if _DECIMAL.fullmatch(text) else None


def choice(family: str, answer: str | None, key: str) -> bool:
  """The same letter of a multiple choice."""
  del family
  letters = [_LETTER.fullmatch(text.strip()) for text in (answer or '', key)]
  return None not in letters and letters[0][1].upper() == letters[1][1].upper()


VERIFIERS: dict[str, Callable[[str, str | None, str], bool]] = {
  'strict': strict,
  'challenge': challenge,
  'number': number,
  'choice': choice,
}


class UnknownVerifierError(ValueError):
  """There is no comparison of that name."""


def named(name: str) -> Callable[[str, str | None, str], bool]:
  """The comparison of that name.

  Raises:
    UnknownVerifierError: there is none; the message lists them.
  """
  if name not in VERIFIERS:
    raise UnknownVerifierError(
      f'no verifier {name!r}{suggestion(name, VERIFIERS)} (of {", ".join(VERIFIERS)})'
    )
  return VERIFIERS[name]


def is_correct(completion: str, family: str, key: str, verifier: str = 'strict') -> bool:
  """Extracts the answer of a completion and compares it.

  Raises:
    UnknownVerifierError: see `named`.
  """
  return named(verifier)(family, extract_boxed(completion), key)
