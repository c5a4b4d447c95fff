"""Ranges and choices on the field: checked on every construction, before relations of fields."""

import dataclasses
import math
import re
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf, doc

from aevo_jax.config.constraints import (
  OneOf,
  ReadWhen,
  checked,
  holding,
  one_of,
  other_than,
  refuse_unread,
)


@checked('trial')
@dataclasses.dataclass(frozen=True)
class Trial:
  steps: Annotated[int, Ge(1)] = 1
  rate: Annotated[float, Interval(gt=0, le=10)] = 1.0
  decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0
  rank: Annotated[int, Le(8)] = 8
  seconds: Annotated[float, Gt(0), doc('0 would never end')] = 1.0
  below: Annotated[float | None, Lt(0)] = None
  name: Annotated[str, OneOf(['a', 'b'])] = 'a'
  size: Literal['micro', 'standard'] = 'micro'
  free: str = ''

  def __post_init__(self):
    if 12 % self.steps:
      raise ValueError('steps must divide 12')


@checked('plain')
@dataclasses.dataclass(frozen=True)
class WithoutRelations:
  steps: Annotated[int, Ge(1)] = 1


class Inherited(WithoutRelations):
  pass


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('steps', 0, 'trial.steps must be >= 1, got 0'),
    ('steps', 5, 'steps must divide 12'),
    ('rate', 0.0, 'trial.rate must lie in (0, 10], got 0.0'),
    ('rate', 10.5, 'trial.rate must lie in (0, 10], got 10.5'),
    ('rate', math.nan, 'trial.rate must lie in (0, 10], got nan'),
    ('decay', 1.0, 'trial.decay must lie in [0, 1), got 1.0'),
    ('rank', 9, 'trial.rank must be <= 8, got 9'),
    ('seconds', 0.0, 'trial.seconds must be > 0, got 0.0; 0 would never end'),
    ('below', 0.0, 'trial.below must be < 0, got 0.0'),
    ('name', 'c', "trial.name must be one of ('a', 'b'), got 'c'"),
    ('size', 'big', "trial.size must be one of ('micro', 'standard'), got 'big'"),
  ],
)
@pytest.mark.parametrize('make', [Trial, lambda **fields: dataclasses.replace(Trial(), **fields)])
def test_a_value_outside_is_refused_by_name(make, field, value, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(**{field: value})


def test_bounds_that_are_included_and_none_pass():
  Trial(steps=1, rate=10.0, decay=0.0, rank=8, below=None)
  assert dataclasses.replace(Trial(), steps=3).steps == 3


@pytest.mark.parametrize('cls', [WithoutRelations, Inherited])
def test_a_class_without_post_init_is_checked_too(cls):
  assert cls(2).steps == 2
  with pytest.raises(ValueError, match=r'plain\.steps must be >= 1, got 0'):
    cls(0)


@pytest.mark.parametrize(
  'annotation', [Annotated[int, MultipleOf(2)], Annotated[int, Ge(1)] | None]
)
def test_a_constraint_that_would_never_be_checked_is_an_error(annotation):
  cls = dataclasses.make_dataclass('Unsupported', [('n', annotation, 2)], frozen=True)
  with pytest.raises(TypeError, match=r'Unsupported\.n'):
    checked('unsupported')(cls)


@dataclasses.dataclass(frozen=True)
class Switched:
  name: str = 'a'
  rate: Annotated[float, Gt(0), ReadWhen(one_of('switched.name', 'b', 'c'))] = 1.0
  width: Annotated[
    int, ReadWhen(other_than('switched.name', 'a'), holding('switched.name', 'z'))
  ] = 1
  elsewhere: Annotated[int, ReadWhen(one_of('other.name', 'b'))] = 1


@pytest.mark.parametrize(
  ('values', 'said'),
  [
    ({'name': 'b', 'rate': 2.0, 'width': 2, 'elsewhere': 2}, ''),
    ({'rate': 1.0, 'width': 1}, ''),
    (
      {'rate': 2.0},
      "switched.rate = 2.0, and nothing reads it while switched.name = 'a'; leave it out, "
      "or bind switched.name = 'b' or 'c'",
    ),
    (
      {'width': 2},
      "bind switched.name to another value than 'a', or bind switched.name to one with 'z' in it",
    ),
  ],
)
def test_what_nothing_reads_is_refused_and_the_switch_is_named(values, said):
  if not said:
    refuse_unread(Switched(**values), 'switched')
    return
  with pytest.raises(ValueError, match=re.escape(said)):
    refuse_unread(Switched(**values), 'switched')
