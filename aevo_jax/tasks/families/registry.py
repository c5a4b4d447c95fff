"""The puzzle families by name, in the order in which a mixture samples them.

A new family is appended with weight 0: the order and the weights of the others decide every stream
that exists.
"""

from collections.abc import Sequence

from aevo_jax.tasks.families import (
  bit_manipulation,
  equation_transformation,
  gravitational_constant,
  numeral_conversion,
  text_encryption,
  unit_conversion,
)
from aevo_jax.tasks.item import Family


def _by_name(families: Sequence[Family]) -> dict[str, Family]:
  return {family.name: family for family in families}


FAMILIES = _by_name(
  [
    bit_manipulation.FAMILY,
    text_encryption.FAMILY,
    numeral_conversion.FAMILY,
    unit_conversion.FAMILY,
    gravitational_constant.FAMILY,
    equation_transformation.FAMILY,
  ]
)
