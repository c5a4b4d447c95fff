r"""Answer extraction and the two comparisons, against tables made by hand."""

import itertools
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from aevo_jax.tasks import verify

BITS, CODE, ROMAN, UNIT, FALL, CALC = (
  'bit_manipulation',
  'text_encryption',
  'numeral_conversion',
  'unit_conversion',
  'gravitational_constant',
  'equation_transformation',
)

# completion -> extracted answer
EXTRACTION = [
  (r'\boxed{0110}', '0110'),
  (r'rot1 0110 \boxed{0110}', '0110'),
  (r'\boxed{ 12.50 } metres', '12.50'),  # blanks at the ends are not part of the answer
  (r'\boxed{a b}', 'a b'),  # inside, they are
  (r'\boxed{first} then \boxed{second}', 'second'),  # the last one counts
  (r'\boxed{right} \boxed{}', ''),  # even if it is empty
  (r'\boxed{\frac{1}{2}}', r'\frac{1}{2}'),  # braces nest
  (r'\boxed{a{b{c}d}e} tail}', 'a{b{c}d}e'),
  (r'\boxed{\boxed{7}}', '7'),  # the innermost box begins last
  (r'\boxed{7} \boxed{8', '7'),  # an unclosed box is none
  (r'\boxed{7', None),
  (r'\boxed{7{', None),
  (r'\boxed7', None),
  (r'\boxed {7}', None),
  (r'boxed{7}', None),
  (r'\Boxed{7}', None),
  (r'\fbox{7}', None),
  ('7', None),
  ('', None),
  ('\\boxed{VI\n}', 'VI'),
]


@pytest.mark.parametrize(('completion', 'answer'), EXTRACTION)
def test_extraction(completion, answer):
  assert verify.extract_boxed(completion) == answer


def by_definition(completion: str) -> str | None:
  """The content of the last box that closes, found by trying each from the end."""
  starts = [i for i in range(len(completion)) if completion.startswith('\\boxed{', i)]
  for start in reversed(starts):
    begin, depth = start + len('\\boxed{'), 1
    for end in range(begin, len(completion)):
      depth += {'{': 1, '}': -1}.get(completion[end], 0)
      if depth == 0:
        return completion[begin:end].strip()
  return None


@hypothesis.given(st.lists(st.sampled_from(['\\boxed{', '{', '}', '\\', 'boxed', 'x', ' '])))
def test_extraction_is_the_definition(parts):
  completion = ''.join(parts)
  assert verify.extract_boxed(completion) == by_definition(completion)


@pytest.mark.parametrize('unit', ['\\boxed{', '\\boxed{x ', '{', '\\boxed{}{', '}'])
def test_extraction_reads_a_completion_once(unit):
  """Sixteen times the text is about sixteen times the work; each box anew would be 256 times."""

  def seconds(repeats):
    completion = '\\boxed{' + unit * repeats
    runs = []
    for _ in range(3):
      begin = time.process_time()
      verify.extract_boxed(completion)
      runs.append(time.process_time() - begin)
    return min(runs)

  assert seconds(80_000) < 80 * max(seconds(5_000), 1e-4)


# family, answer, key, right by the strict comparison, right by the challenge's. Where the last two
# differ the challenge's rule is the flawed one.
COMPARISONS = [
  (BITS, '0110', '0110', True, True),
  (BITS, '0111', '0110', False, True),  # one bit wrong: as numbers |111 - 110| = 1 <= 1.11
  (BITS, '0010', '0110', False, False),  # one bit wrong: as numbers |10 - 110| = 100 > 1.10
  (BITS, '10110011', '10110011', True, True),
  (BITS, '10110010', '10110011', False, True),  # one bit wrong: 1 in ten million away
  (BITS, '00110011', '10110011', False, False),  # the first bit wrong: 110011 against 10110011
  (BITS, '0110011', '00110011', False, True),  # a bit too few, the same number
  (BITS, '00000000', '00000001', False, False),
  (BITS, '0110 ', '0110', False, True),  # `float` strips; extraction has stripped already
  (BITS, '', '0110', False, False),
  (CODE, 'amber fox', 'amber fox', True, True),
  (CODE, 'Amber Fox', 'amber fox', False, True),  # the challenge's rule is blind to case
  (CODE, 'amberfox', 'amber fox', False, False),
  (CODE, 'amber  fox', 'amber fox', False, False),
  (CODE, 'amber', 'amber fox', False, False),
  (ROMAN, 'XIV', 'XIV', True, True),
  (ROMAN, 'xiv', 'XIV', False, True),
  (ROMAN, 'XIIII', 'XIV', False, False),
  (ROMAN, '14', 'XIV', False, False),
  (UNIT, '10.00', '10.00', True, True),
  (UNIT, '10', '10.00', True, True),
  (UNIT, '+10.', '10.00', True, True),
  (UNIT, '.5', '0.50', True, True),
  (UNIT, '-10.00', '10.00', False, False),
  (UNIT, '9.90', '10.00', True, True),  # 0.10 <= 1% of the larger
  (UNIT, '9.89', '10.00', False, False),
  (UNIT, '10.10', '10.00', True, True),  # 0.10 <= 0.1010
  (UNIT, '10.11', '10.00', False, False),  # 0.11 > 0.1011
  (UNIT, '10.00 m', '10.00', False, False),
  (UNIT, '10,00', '10.00', False, False),
  (UNIT, '1e1', '10.00', False, True),  # exponents, underscores, other digits: no plain decimals
  (UNIT, '1_0.0', '10.00', False, True),
  (UNIT, '１０.００', '10.00', False, True),  # noqa: RUF001 - digits of other scripts
  (UNIT, '٣.٥', '3.50', False, True),  # noqa: RUF001 - digits of other scripts
  (UNIT, '', '10.00', False, False),
  (UNIT, '.', '10.00', False, False),
  (UNIT, '10.00\n', '10.00', False, True),
  (UNIT, 'nan', '10.00', False, False),
  (UNIT, 'inf', '10.00', False, False),
  (UNIT, '-inf', '10.00', False, False),
  (UNIT, 'infinity', '10.00', False, False),
  (UNIT, '1e999', '10.00', False, False),
  (UNIT, '9' * 400, '10.00', False, False),  # a plain decimal that overflows to infinity
  (FALL, '490.00', '494.90', True, True),  # 4.90 <= 4.949
  (FALL, '490.00', '494.94', True, True),  # 4.94 <= 4.9494
  (FALL, '490.00', '494.95', False, False),  # 4.95 > 4.9495
  (FALL, '0.00', '0.00', True, True),
  (FALL, '0.00001', '0.00', True, True),  # the absolute tolerance
  (FALL, '0.00002', '0.00', False, False),
  (FALL, '100.00', '102.00', False, False),
  (CALC, '27', '27', True, True),
  (CALC, '28', '27', False, False),
  (CALC, '1001', '1000', False, True),  # within 1%
  (CALC, '027', '27', False, True),
  (CALC, '27.0', '27', False, True),
  (CALC, '-5', '-5', True, True),
  (CALC, '5', '-5', False, False),
  (CALC, '~*=', '~*=', True, True),
  (CALC, '~*', '~*=', False, False),
]


@pytest.mark.parametrize(('family', 'answer', 'key', 'strict', 'challenge'), COMPARISONS)
def test_comparisons(family, answer, key, strict, challenge):
  assert verify.strict(family, answer, key) is strict
  assert verify.challenge(family, answer, key) is challenge
  # The same through the front door, the strict comparison being the default. Extraction strips, so
  # blanks at the ends are gone.
  if answer == answer.strip():
    assert verify.is_correct(f'so \\boxed{{{answer}}}', family, key) is strict
    assert verify.is_correct(f'so \\boxed{{{answer}}}', family, key, 'challenge') is challenge


@pytest.mark.parametrize('family', [BITS, CODE, ROMAN, UNIT, FALL, CALC])
def test_no_box_is_wrong(family):
  assert not verify.strict(family, None, '1') and not verify.challenge(family, None, '1')
  assert not verify.is_correct('1', family, '1') and not verify.is_correct(
    '1', family, '1', 'challenge'
  )


@pytest.mark.parametrize(
  ('name', 'answer', 'key', 'right'),
  [
    ('number', '1,000', '1000.00', True),
    ('number', '+7', '7', True),
    ('number', '-0', '0', True),
    ('number', '.5', '0.50', True),
    ('number', '1,234,567', '1234567', True),
    ('number', '7', '7.01', False),
    ('number', '12,34', '1234', False),
    ('number', '-1,234.50', '-1234.5', True),
    ('number', '0,125', '125', False),  # a decimal comma, where English has none
    ('number', '0,125', '0.125', False),
    ('number', '-0,125', '-125', False),
    ('number', '012,345', '12345', False),
    ('number', '1234,567', '1234567', False),
    ('number', '1,234,56', '123456', False),
    ('number', '1.234,567', '1.234567', False),
    ('number', '1e3', '1000', False),
    ('number', 'inf', '7', False),
    ('number', '1/2', '0.5', False),
    ('number', '7 m', '7', False),
    ('number', '', '7', False),
    ('number', None, '7', False),
    ('number', '9' * 400, '9' * 400, True),
    ('number', '9' * 400, '9' * 399, False),
    ('choice', 'b', 'B', True),
    ('choice', '(B)', 'B', True),
    ('choice', 'B.', '(b)', True),
    ('choice', 'A', 'B', False),
    ('choice', 'AB', 'B', False),
    ('choice', 'B because', 'B', False),
    ('choice', '', 'B', False),
    ('choice', None, 'B', False),
  ],
)
def test_comparisons_of_tasks_of_ones_own(name, answer, key, right):
  assert verify.named(name)('any', answer, key) is right


def test_unknown_verifier():
  with pytest.raises(
    verify.UnknownVerifierError, match=r"no verifier 'lenient'.*strict, challenge, number, choice"
  ):
    verify.is_correct(r'\boxed{1}', BITS, '1', 'lenient')


@pytest.mark.parametrize('key', ['0.25', '1.00', '33.33', '494.95', '1197.60'])
def test_tolerance_is_one_percent_of_the_larger(key):
  """In hundredths, exactly: a is right if 100 |a - k| <= max(a, k). Every a from k/2 to 2k, but
  exact ties, which floats may break.
  """
  k = round(float(key) * 100)
  for a in range(k // 2, 2 * k):
    if 100 * abs(a - k) != max(a, k):
      assert verify.strict(UNIT, f'{a // 100}.{a % 100:02d}', key) is (100 * abs(a - k) < max(a, k))


def test_share_of_wrong_bits_the_challenge_lets_pass():
  """63% of one-bit-wrong and 16% of random 8-bit answers, by enumeration in integers.

  A bit string reads as the decimal number with those digits, and d <= 1e-2 max(a, b) is 100 d <=
  max(a, b); the absolute tolerance never decides between integers. One-bit-wrong: all 256 keys
  times 8 flips. Random: all 256 keys times 256 answers, the right one included.
  """
  strings = [''.join(bits) for bits in itertools.product('01', repeat=8)]
  flips = [(key, key[:i] + '10'[int(key[i])] + key[i + 1 :]) for key in strings for i in range(8)]
  pairs = list(itertools.product(strings, strings))

  def passes(a, b):
    return 100 * abs(int(a) - int(b)) <= max(int(a), int(b))

  for cases, share in ((flips, 0.63), (pairs, 0.16)):
    expected = sum(passes(a, key) for key, a in cases)
    assert round(expected / len(cases), 2) == share
    assert sum(verify.challenge(BITS, a, key) for key, a in cases) == expected
  assert not any(verify.strict(BITS, a, key) for key, a in flips)
  assert sum(verify.strict(BITS, a, key) for key, a in pairs) == 256
