r"""Verifiers: the extraction of a completion's answer and its comparison with the key.

The answer is the content of the last `\boxed{}` of a completion. `objective.verifier` names one of
the comparisons:

  strict     the default: a family's `same_answer`, which is a relative tolerance of 1e-2 for
             unit_conversion and gravitational_constant, and exact text for the rest.
  challenge  the public challenge's rule as competitors reimplemented it: equal as case-insensitive
             text, or, if both parse as floats, |a - b| <= max(1e-2 max(|a|, |b|), 1e-5). Bit
             strings parse as floats, so most one-bit-wrong answers pass: a flawed proxy by design.
  number     for tasks of one's own: equal as decimal numbers, whatever zeros, sign or commas
             between thousands they are written with.
  choice     for tasks of one's own: the same letter, as in `B`, `(b)` or `B.`.

A comparison of your own is a function (family, answer or None, key) -> bool and a row of VERIFIERS;
it changes the code that a substrate pins.
"""

import decimal
import re
import unicodedata
from collections.abc import Callable

from aevo_jax.config.nearest import suggestion
from aevo_jax.tasks import answers
from aevo_jax.tasks.families.registry import FAMILIES

# Commas where English sets them: `1,234.5`. In `0,125` and `1234,567` one may be a decimal comma.
_THOUSANDS = re.compile(r'[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?', re.ASCII)
_LETTER = re.compile(r'\(?([A-Za-z])[).:]?')
_BRACE = re.compile(r'\\boxed\{|[{}]')


def extract_boxed(completion: str) -> str | None:
  r"""Extracts the content of the last complete `\boxed{...}`, in which braces may nest.

  Args:
    completion: a model's text. The time is in proportion to its length.

  Returns:
    The content without white space at its ends, or None where no box is complete.
  """
  place = boxed_place(completion)
  return None if place is None else completion[place[0] : place[1]].strip()


def boxed_place(completion: str) -> tuple[int, int] | None:
  r"""Finds the content of the last complete `\boxed{...}`: where it begins and ends, or None."""
  last = (-1, -1)  # where the content of the last complete box begins and ends
  contents: list[int] = []  # of the braces that are open; -1 for those that open no box
  for brace in _BRACE.finditer(completion):
    if brace[0] != '}':
      contents.append(-1 if brace[0] == '{' else brace.end())
    elif contents:
      last = max(last, (contents.pop(), brace.start()))
  return None if last[0] == -1 else last


def strict(family: str, answer: str | None, key: str) -> bool:
  """Compares as the family declares.

  Args:
    family: a puzzle family, or a family of one's own, whose answers are exact texts.
    answer: the extracted answer; None is wrong. Only plain decimals count as numbers; inf, nan and
      exponents do not.
    key: the right answer.

  Returns:
    Whether the answer is right.
  """
  if answer is None:
    return False
  if family in FAMILIES:
    return FAMILIES[family].same_answer(answer, key)
  return answers.same_text(answer, key)


def challenge(family: str, answer: str | None, key: str) -> bool:
  """Compares by the challenge's literal rule, for every family alike."""
  del family
  if answer is None:
    return False
  if answer.lower() == key.lower():
    return True
  try:
    return answers.close(float(answer), float(key))
  except ValueError:
    return False


def number(family: str, answer: str | None, key: str) -> bool:
  """Compares plain decimals.

  Args:
    family: is not used.
    answer: 1,000 and 1000.0 are one number; fractions, units and exponents are none, nor are
      commas that part no thousands, such as the decimal one of 0,125.
    key: the right number, in any such form.

  Returns:
    Whether both are numbers and equal.
  """
  del family
  value = _plain_decimal(answer or '')
  return value is not None and value == _plain_decimal(key)


def _plain_decimal(text: str) -> decimal.Decimal | None:
  text = text.strip()
  if _THOUSANDS.fullmatch(text):
    text = text.replace(',', '')
  if not answers.DECIMAL.fullmatch(text):
    return None
  return decimal.Decimal(text)


def in_ascii(number: str) -> str:
  """Writes a number with the digits and the minus of ASCII.

  Args:
    number: any text. White space and dollars around it, as of a formula, are left out.

  Returns:
    The text, which may be no number.
  """
  plain = unicodedata.normalize('NFKC', number).replace('\N{MINUS SIGN}', '-').strip()
  if len(plain) > 2 and plain[0] == plain[-1] == '$':
    plain = plain[1:-1].strip()
  return plain


def choice(family: str, answer: str | None, key: str) -> bool:
  """Compares the letters of a multiple choice, of either case."""
  del family
  letter = _option_letter(answer or '')
  return letter is not None and letter == _option_letter(key)


def _option_letter(text: str) -> str | None:
  match = _LETTER.fullmatch(text.strip())
  if match is None:
    return None
  return match[1].upper()


Verifier = Callable[[str, str | None, str], bool]
VERIFIERS: dict[str, Verifier] = {
  'strict': strict,
  'challenge': challenge,
  'number': number,
  'choice': choice,
}


class UnknownVerifierError(ValueError):
  """There is no comparison of that name."""


def named(name: str) -> Verifier:
  """Returns the comparison of that name.

  Args:
    name: a row of VERIFIERS, as in `objective.verifier`.

  Returns:
    A function (family, answer or None, key) -> bool.

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

  Args:
    completion: a model's text.
    family: name of the item's family.
    key: the right answer.
    verifier: a row of VERIFIERS.

  Returns:
    Whether the last box holds a right answer.

  Raises:
    UnknownVerifierError: see `named`.
  """
  return named(verifier)(family, extract_boxed(completion), key)
