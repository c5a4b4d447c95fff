"""The arrays that a loss is given of some rows of a batch.

Every loss reads `mask`, 1 where the policy chose a token, and some of these, [batch, time] each
unless it says otherwise. What lies where the mask is 0 is not read and may hold NaN.

    weights            what a token's loss counts; they are made once for the whole batch
    pair_weights       [batch], what a pair's loss counts, at both of its rows
    advantages         constants of the policy gradient
    old_logprobs       log-probabilities under the policy as it was when the update began, in nats
    sampler_logprobs   those under the sampler that chose the token
    ref_logprobs       those under the reference
    returns            what the critic is trained on
    old_values         the critic's values when the update began
"""

from collections.abc import Mapping

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
Batch = Mapping[str, AnyArray]
