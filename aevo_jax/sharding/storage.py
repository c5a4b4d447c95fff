"""How parameters are stored, and how they lie on a mesh where that is another way.

A vocabulary that its devices do not divide is padded with zeros up to the next number that they do.

A packed dimension, several matrices in one, would be cut across the borders of its pieces. It is
interleaved instead, so that a device holds its part of every piece:

    z0 z1 x0 x1 dt0 dt1  ->  z0 x0 dt0 | z1 x1 dt1

Checkpoints, digests and exports hold parameters as they are stored.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from aevo_jax.sharding.rules import Layout


@dataclasses.dataclass(frozen=True)
class Form:
  """A parameter that lies otherwise than it is stored.

  Attributes:
    stored: its shape in files.
    placed: its shape on the mesh, with padding.
    axes: the logical axis of each dimension.
    pieces: the widths of the pieces of its last dimension, if that is interleaved.
    parts: into which each piece is cut.
  """

  stored: tuple[int, ...]
  placed: tuple[int, ...]
  axes: tuple[str, ...]
  pieces: tuple[int, ...] = ()
  parts: int = 1

  def is_interleaved(self, shape: tuple[int, ...]) -> bool:
    """Tells whether an array that belongs to the parameter has its packed dimension."""
    return bool(self.pieces) and shape[-1:] == self.stored[-1:]

  def lay_out(self, x: np.ndarray) -> np.ndarray:
    """Brings an array into the form of the mesh.

    Args:
      x: the stored parameter, or an array of the optimizer that belongs to it.

    Returns:
      The array on the mesh; an array without the dimension in question stays as it is.
    """
    if self.is_interleaved(x.shape):
      return interleave(x, self.pieces, self.parts)
    if x.shape == self.stored:
      return np.pad(x, [(0, p - s) for s, p in zip(self.stored, self.placed, strict=True)])
    return x

  def store(self, x: np.ndarray) -> np.ndarray:
    """Inverts `lay_out`."""
    if self.is_interleaved(x.shape):
      return np.concatenate(take_apart(x, self.pieces, self.parts), axis=-1)
    if x.shape == self.placed:
      return x[tuple(map(slice, self.stored))]
    return x


def take_apart(
  x: Shaped[jax.Array | np.ndarray, '*lead packed'], pieces: Sequence[int], parts: int
) -> list[Any]:
  """Splits an interleaved dimension.

  Args:
    x: an array whose last dimension is interleaved.
    pieces: their widths, each a multiple of `parts`.
    parts: into which each is cut.

  Returns:
    The pieces, each whole; on a mesh nothing is sent for it.
  """
  grouped = x.reshape(*x.shape[:-1], parts, x.shape[-1] // parts)
  ends = itertools.accumulate(piece // parts for piece in pieces)
  whole = []
  for piece, end in zip(pieces, ends, strict=True):
    part = grouped[..., end - piece // parts : end]
    whole.append(part.reshape(*x.shape[:-1], piece))
  return whole


def interleave(x: np.ndarray, pieces: Sequence[int], parts: int) -> np.ndarray:
  """Inverts `take_apart`, from pieces that lie one after the other.

  Args:
    x: an array whose last dimension is packed.
    pieces: their widths.
    parts: into which each is cut.

  Returns:
    An array of the same shape.
  """
  grouped = []
  for piece in np.split(x, list(itertools.accumulate(pieces))[:-1], axis=-1):
    grouped.append(piece.reshape(*x.shape[:-1], parts, -1))
  return np.concatenate(grouped, axis=-1).reshape(x.shape)


def parts_of(
  layout: Layout,
  shapes: Mapping[str, Any],
  axes: Mapping[str, tuple[str, ...]],
  pieces: Mapping[str, tuple[int, ...]],
) -> int:
  """Finds into how many parts packed dimensions are interleaved.

  Args:
    layout: rules on a mesh.
    shapes: {name: anything with `.shape`}, as stored.
    axes: {name: one logical axis for each dimension}.
    pieces: {name: widths of the pieces of its last dimension}, for packed parameters.

  Returns:
    As many as devices compute with; 1 where they do not divide every piece, or where the packed
    dimension of a parameter cannot be told from another by its size.
  """
  parts = 1
  for name, widths in pieces.items():
    parts = layout.width_shards(axes[name][-1])
    sizes = tuple(shapes[name].shape)
    assert sum(widths) == sizes[-1], f'{name}: {widths} are not the pieces of {sizes}'
    if any(width % parts for width in widths) or sizes.count(sizes[-1]) > 1:
      return 1
  return parts


def forms(
  layout: Layout,
  shapes: Mapping[str, Any],
  axes: Mapping[str, tuple[str, ...]],
  pieces: Mapping[str, tuple[int, ...]],
) -> dict[str, Form]:
  """Lists the parameters that lie otherwise than they are stored.

  Args:
    layout: rules on a mesh.
    shapes: {name: anything with `.shape`}, as stored.
    axes: {name: one logical axis for each dimension}.
    pieces: {name: widths of the pieces of its last dimension}, for packed parameters.

  Returns:
    {name: form}.
  """
  parts = parts_of(layout, shapes, axes, pieces)
  found = {}
  for name, value in shapes.items():
    stored = tuple(value.shape)
    placed = layout.padded(stored, axes[name])
    if parts > 1 and name in pieces:
      found[name] = Form(stored, placed, axes[name], pieces[name], parts)
    elif placed != stored:
      found[name] = Form(stored, placed, axes[name])
  return found
