"""Meshes that a model's dimensions and a batch allow, the nearest to a wish first."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from aevo_jax.sharding.rules import Sharding


def factorizations(devices: int, axes: int) -> Iterator[tuple[int, ...]]:
  """Yields every way to write a number of devices as a product of sizes, in order of the sizes.

  Args:
    devices: the product.
    axes: how many sizes.

  Yields:
    The sizes.
  """
  divisors = [size for size in range(1, devices + 1) if devices % size == 0]
  for sizes in itertools.product(divisors, repeat=axes):
    if math.prod(sizes) == devices:
      yield sizes


def legal(
  wish: Mapping[str, int],
  rules: Sharding,
  shapes: Mapping[str, Any],
  logical_axes: Mapping[str, tuple[str, ...]],
  row_length: int,
  rows: int = 0,
) -> list[dict[str, int]]:
  """Lists the meshes with the axes of a wish and as many devices that divide the parameters.

  Args:
    wish: {axis: size}.
    rules: of the sharding.
    shapes: of the parameters, by name.
    logical_axes: of their dimensions.
    row_length: tokens of a row.
    rows: of a batch; 0 is as many as a mesh wants.

  Returns:
    Sizes by axis, the nearest to the wish first: by the sum of the logarithms of the ratios.
  """
  found = []
  for sizes in factorizations(math.prod(wish.values()), len(wish)):
    mesh = dict(zip(wish, sizes, strict=True))
    layout = rules.bind(mesh)
    try:
      layout.parameter_specs(layout.padded_shapes(shapes, logical_axes), logical_axes)
      layout.check_batch(rows or layout.shards('batch'), row_length)
    except ValueError:
      continue
    found.append(mesh)

  def distance(mesh: Mapping[str, int]) -> float:
    return sum(abs(math.log(mesh[axis] / wish[axis])) for axis in wish)

  return sorted(found, key=distance)
