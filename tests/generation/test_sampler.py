"""Greedy decoding against the plainest possible one: the whole sequence read again for every token,
no cache, no padding on the left.
"""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from aevo_jax.generation.sampler import Sampler
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer, TrainConfig
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

PAD, EOS, ARROW, LETTERS = 0, 1, 2, range(3, 9)
CONFIG = ModelConfig(
  vocab_size=9,
  hidden_size=24,
  pattern='M*',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=12,
  intermediate_size=48,
  mamba_num_heads=2,
  mamba_head_dim=16,
  ssm_state_size=16,
  chunk_size=4,
)
MAX_NEW, LONGEST = 6, 9
STRUCTURE, UNTRAINED = unbind(create(CONFIG, seed=0))


@functools.cache
def trained():
  """A model that has begun to learn `letters > last letter, first letter, end`: it ends some
  sequences, late or early.
  """
  rng = np.random.default_rng(0)
  tx = transformation(Optimizer(learning_rate=1e-2, warmup_fraction=0.0))
  step = jax.jit(make_train_step(STRUCTURE, tx, TrainConfig()), donate_argnums=0)
  state = TrainState.create(UNTRAINED, tx, 0.0)
  for _ in range(60):
    letters = rng.integers(LETTERS[0], LETTERS[-1] + 1, (16, 4))
    tokens = np.concatenate(
      [letters, np.full((16, 1), ARROW), letters[:, -1:], letters[:, :1], np.full((16, 1), EOS)],
      axis=1,
    ).astype(np.int32)
    weights = np.broadcast_to(np.arange(8) > 4, tokens.shape).astype(np.float32)
    batch = {'tokens': tokens, 'weights': weights, 'segment_ids': np.ones_like(tokens)}
    with jax.numpy_dtype_promotion('standard'):  # optax counts its steps in integers
      state, _ = step(state, {}, batch, np.float32(1e-2))
  return state.params


def prompts():
  """Prompts of every length, 1 to LONGEST, out of order; half of them complete, half cut short."""
  rng = np.random.default_rng(1)
  return [
    [*rng.integers(LETTERS[0], LETTERS[-1] + 1, n - 1).tolist(), end]
    for n, end in (
      (5, ARROW),
      (1, ARROW),
      (9, 4),
      (3, ARROW),
      (7, 5),
      (5, ARROW),
      (2, 6),
      (8, ARROW),
      (4, 7),
      (6, ARROW),
      (5, 8),
    )
  ]


@jax.jit
def forward(params, tokens):
  return STRUCTURE.bind(params)(tokens, np.ones(tokens.shape, np.int32))


def reference(params, prompt, eos=EOS):
  """Greedy by full forwards. What stands after the last token cannot reach it, so one length serves
  all (one compilation).
  """
  ids = list(prompt)
  for _ in range(MAX_NEW):
    row = np.full((1, LONGEST + MAX_NEW), PAD, np.int32)
    row[0, : len(ids)] = ids
    token = int(np.argmax(np.asarray(forward(params, row))[0, len(ids) - 1]))
    if token == eos:
      break
    ids.append(token)
  return ids[len(prompt) :]


def sampler(**settings):
  return Sampler(
    STRUCTURE,
    **{'eos_id': EOS, 'pad_id': PAD, 'batch': 4, 'bucket': 8, 'max_new_tokens': MAX_NEW} | settings,
  )


@pytest.mark.parametrize('params', [lambda: UNTRAINED, trained], ids=['untrained', 'trained'])
def test_greedy_is_the_argmax_of_full_forwards(params):
  params = params()
  expected = [reference(params, prompt) for prompt in prompts()]
  assert sampler()(params, prompts()) == expected
  assert len({tuple(e) for e in expected}) > 3, (
    'the model says the same to all, so this compared nothing'
  )


def test_some_sequences_end_and_the_end_is_not_returned():
  completions = sampler()(trained(), prompts())
  lengths = {len(c) for c in completions}
  assert min(lengths) < MAX_NEW and not any(EOS in c for c in completions)


@pytest.mark.parametrize(
  'settings', [{'batch': 1}, {'batch': 2, 'bucket': 1}, {'batch': 16, 'bucket': 16}], ids=str
)
def test_batch_and_bucket_do_not_change_the_result(settings):
  assert sampler(**settings)(trained(), prompts()[:3]) == [
    reference(trained(), prompt) for prompt in prompts()[:3]
  ]


def test_order_of_prompts_does_not_change_the_result():
  order = np.random.default_rng(2).permutation(len(prompts()))
  completions, shuffled = (
    sampler()(trained(), prompts()),
    sampler()(trained(), [prompts()[i] for i in order]),
  )
  assert shuffled == [completions[i] for i in order]


def test_two_calls_give_the_same_tokens():
  one = sampler()
  assert one(trained(), prompts()) == one(trained(), prompts())


def test_an_end_that_comes_first_gives_an_empty_completion():
  """The end token is whatever the model says first."""
  prompt = prompts()[0]
  first = reference(UNTRAINED, prompt)[0]
  assert sampler(eos_id=first, pad_id=EOS)(UNTRAINED, [prompt]) == [[]]


def test_a_pad_token_that_the_model_says_is_a_token_like_any_other():
  prompt = prompts()[0]
  said = reference(UNTRAINED, prompt, eos=-1)
  assert sampler(eos_id=-1, pad_id=said[2])(UNTRAINED, [prompt]) == [said]


def test_no_prompts_give_no_completions():
  assert sampler()(UNTRAINED, []) == []


def test_an_empty_prompt_is_refused():
  with pytest.raises(ValueError, match='prompt 1 is empty'):
    sampler()(UNTRAINED, [[3], []])


# -- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_sampled_tokens_follow_the_softmax(temperature):
  """First tokens against the softmax of a full forward; second tokens against that of the forward
  with the first one appended.
  """
  params, prompt, draws = trained(), prompts()[0], 4096
  one = sampler(batch=256, max_new_tokens=2, eos_id=-1)
  found = np.array(one(params, [prompt] * draws, seeds=range(draws), temperature=temperature))
  first = int(np.bincount(found[:, 0]).argmax())
  for prefix, tokens in ((prompt, found[:, 0]), ([*prompt, first], found[found[:, 0] == first, 1])):
    row = np.full((1, LONGEST + MAX_NEW), PAD, np.int32)
    row[0, : len(prefix)] = prefix
    logits = np.asarray(forward(params, row), np.float64)[0, len(prefix) - 1] / temperature
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() * len(tokens)
    seen = np.bincount(tokens, minlength=len(expected))
    likely = (
      expected >= 5
    )  # chi-square needs cells that are not too small: the others are one binomial count
    assert likely.sum() > 1
    assert (
      stats.chisquare(
        seen[likely], expected[likely] * seen[likely].sum() / expected[likely].sum()
      ).pvalue
      > 1e-3
    ), (seen, expected)
    assert (
      stats.binomtest(
        int(seen[~likely].sum()), len(tokens), float(expected[~likely].sum() / len(tokens))
      ).pvalue
      > 1e-3
    ), (seen, expected)


def test_a_completion_depends_on_its_seed_and_nothing_else():
  params, seeds = trained(), [7 * i for i in range(len(prompts()))]
  together = sampler()(params, prompts(), seeds=seeds)
  order = np.random.default_rng(3).permutation(len(prompts()))
  assert sampler()(params, [prompts()[i] for i in order], seeds=[seeds[i] for i in order]) == [
    together[i] for i in order
  ]
  assert sampler()(params, prompts(), seeds=[s + 1 for s in seeds]) != together


def test_a_low_temperature_is_greedy():
  assert sampler()(
    trained(), prompts(), seeds=range(len(prompts())), temperature=1e-4
  ) == sampler()(trained(), prompts())
