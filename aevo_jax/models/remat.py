"""What a block's forward pass keeps for its backward pass, by name (`model.remat_policy`).

What is not kept is computed again.

    none                everything
    dots                the outputs of products with weights, and what attention and scan give
                        ('context'); norms, activations, attention, scan and routed experts are
                        computed again. MaxText calls it minimal_with_context
    minimal             the outputs of products with weights
    minimal_offloaded   those, in the host's pinned memory, where the backend has such
    block               only the block's input. MaxText calls it full

See Chen et al. (1604.06174) for the trade, and `aevo shapes` for what it saves.
"""

from collections.abc import Callable

import jax
from jax import ad_checkpoint
from jaxtyping import Array, Float

# What attention and the selective scan give, by the name under which 'dots' keeps it.
CONTEXT = 'context'

_policies = jax.checkpoint_policies
_KEPT = {
  'dots': _policies.save_from_both_policies(
    _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(CONTEXT)
  ),
  'minimal': _policies.dots_with_no_batch_dims_saveable,
  'minimal_offloaded': _policies.offload_dot_with_no_batch_dims('device', 'pinned_host'),
  'block': _policies.nothing_saveable,
}
_KEPT['full'] = _KEPT['block']
_KEPT['minimal_with_context'] = _KEPT['dots']


def context(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Marks the output of attention or scan.

  Args:
    x: the output.

  Returns:
    The same numbers, under the name `CONTEXT`.
  """
  return ad_checkpoint.checkpoint_name(x, CONTEXT)


def apply(policy: str, function: Callable, *, scanned: bool = False) -> Callable:
  """Puts a function under a policy.

  Args:
    policy: one of `model.remat_policy`.
    function: of arrays.
    scanned: whether it is the body of a scan, where no common subexpression can undo the
      recomputation.

  Returns:
    A function with the same results.
  """
  if policy == 'none':
    return function
  return jax.checkpoint(function, policy=_KEPT[policy], prevent_cse=not scanned)
