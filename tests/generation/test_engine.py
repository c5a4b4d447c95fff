"""Continuous batching against the plain loop of `Sampler`, and against itself with other
neighbours, slots and dispatches.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from aevo_jax.generation import slots as slots_lib
from aevo_jax.generation.engine import Engine, group_size, knobs
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.sampler import Sampler
from aevo_jax.generation.token_sampling import sample
from aevo_jax.models import scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind

PAD, EOS, VOCABULARY = 0, 1, 11
MAX_NEW = 21
HYBRID = ModelConfig(
  vocab_size=VOCABULARY,
  hidden_size=24,
  pattern='M*-M',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=12,
  intermediate_size=32,
  mamba_num_heads=2,
  mamba_head_dim=16,
  ssm_state_size=16,
  chunk_size=4,
)
ROTATED = ModelConfig(
  family='qwen3',
  vocab_size=VOCABULARY,
  hidden_size=24,
  pattern='*-*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=12,
  rope_theta=1000.0,
  qk_norm=True,
  sliding_window=6,
  intermediate_size=32,
  mlp_activation='swiglu',
)

SCANNED = dataclasses.replace(HYBRID, pattern='M*-M*-', scan=True)


@functools.cache
def model(config):
  """A structure, and parameters that are large enough for some sequences to end early."""
  structure, params = unbind(create(config, seed=0))
  if config.scan:
    structure, params = unbind(scan_layers.Scanned(create(config, seed=0)))
  return structure, {name: 1.5 * value for name, value in params.items()}


def engine(config=HYBRID, **settings):
  structure, params = model(config)
  made = Engine(
    structure,
    **{'eos_ids': [EOS], 'pad_id': PAD, 'slots': 4, 'dispatch': 5, 'bucket': 4} | settings,
  )
  made.update(params, 7)
  return made


@functools.cache
def prompts():
  rng = np.random.default_rng(1)
  return [
    tuple(rng.integers(2, VOCABULARY, n).tolist()) for n in (5, 1, 9, 3, 7, 5, 2, 12, 4, 6, 5)
  ]


def requests():
  return [Request(prompt, seed) for seed, prompt in enumerate(prompts())]


def drawn(structure, params, temperature):
  """Completions of all prompts, from a whole forward for every token."""
  forward, keys = (
    jax.jit(lambda tokens, segments: structure.bind(params)(tokens, segments)),
    jax.vmap(jax.random.key)(jnp.arange(len(prompts()), dtype=jnp.uint32)),
  )
  lengths = np.array([len(p) for p in prompts()])
  rows = np.zeros((len(lengths), lengths.max() + MAX_NEW), np.int32)
  for row, prompt in zip(rows, prompts(), strict=True):
    row[: len(prompt)] = prompt
  for i in range(MAX_NEW):
    logits = np.asarray(
      forward(rows, (np.arange(rows.shape[1]) < (lengths + i)[:, None]).astype(np.int32))
    )[np.arange(len(rows)), lengths + i - 1]
    rows[np.arange(len(rows)), lengths + i] = sample(keys, i, jnp.asarray(logits / temperature))
  found = [row[n : n + MAX_NEW].tolist() for row, n in zip(rows, lengths, strict=True)]
  return [ids[: ids.index(EOS)] if EOS in ids else ids for ids in found]


@pytest.mark.parametrize('config', [HYBRID, ROTATED], ids=['hybrid', 'rotated'])
@pytest.mark.parametrize('greedy', [True, False])
def test_tokens_are_those_of_the_plain_loop(config, greedy):
  """Eleven requests through four slots, around the ring several times."""
  structure, params = model(config)
  plain = Sampler(structure, eos_id=EOS, pad_id=PAD, batch=11, bucket=4, max_new_tokens=MAX_NEW)
  expected = plain(params, prompts()) if greedy else drawn(structure, params, 0.8)
  found = engine(config).generate(
    requests(), Sampling(temperature=0.0 if greedy else 0.8, max_new_tokens=MAX_NEW)
  )
  assert [list(c.tokens if c.finish == 'length' else c.tokens[:-1]) for c in found] == expected
  assert all((c.tokens[-1] == EOS) == (c.finish == 'end') and c.version == 7 for c in found)
  if not greedy:
    assert 'end' in {c.finish for c in found}


def test_scanned_layers_generate_the_same():
  flat = scan_layers.unstack(model(SCANNED)[1], SCANNED.pattern)
  plain = Sampler(
    unbind(create(SCANNED, seed=0))[0],
    eos_id=EOS,
    pad_id=PAD,
    batch=11,
    bucket=4,
    max_new_tokens=MAX_NEW,
  )
  found = engine(SCANNED).generate(requests(), Sampling(temperature=0.0, max_new_tokens=MAX_NEW))
  assert [list(c.tokens if c.finish == 'length' else c.tokens[:-1]) for c in found] == plain(
    flat, prompts()
  )


def test_logprobs_are_those_of_a_whole_forward():
  structure, params = model(HYBRID)
  found = engine().generate(
    requests(), Sampling(temperature=0.7, top_p=0.9, max_new_tokens=MAX_NEW)
  )
  forward = jax.jit(
    lambda tokens, segments: jax.nn.log_softmax(structure.bind(params)(tokens, segments) / 0.7)
  )
  for prompt, completion in zip(prompts(), found, strict=True):
    row, n = np.zeros((1, 12 + MAX_NEW), np.int32), len(prompt) + len(completion.tokens)
    row[0, :n] = prompt + completion.tokens
    said = np.asarray(forward(row, (np.arange(row.shape[1]) < n)[None].astype(np.int32)))[0]
    np.testing.assert_allclose(
      [said[len(prompt) + i - 1, t] for i, t in enumerate(completion.tokens)],
      completion.logprobs,
      atol=2e-4,
    )


@pytest.mark.parametrize(
  'settings',
  [
    {'slots': 1},
    {'slots': 16},
    {'dispatch': 1},
    {'dispatch': 64},
    {'bucket': 16},
    {'refill': 1.0},
    {'refill': 0.0},
  ],
  ids=str,
)
def test_a_sample_depends_on_its_prompt_and_seed_alone(settings):
  sampling = Sampling(max_new_tokens=MAX_NEW)
  expected = engine().generate(requests(), sampling)
  found = engine(**settings).generate(requests()[::-1], sampling)[::-1]
  assert [c.tokens for c in found] == [c.tokens for c in expected]
  np.testing.assert_allclose(
    np.concatenate([c.logprobs for c in found]),
    np.concatenate([c.logprobs for c in expected]),
    atol=1e-4,
  )


def test_slots_that_are_all_busy_are_not_refilled():
  made = engine(refill=0.0, dispatch=2)
  assert [
    len(c.tokens) for c in made.generate(requests(), Sampling(temperature=0.0, max_new_tokens=9))
  ] == [
    len(c.tokens)
    for c in engine().generate(requests(), Sampling(temperature=0.0, max_new_tokens=9))
  ]


def test_a_groups_prompt_is_read_once():
  made = engine(slots=8)
  found = made.generate(
    [Request(prompts()[0], seed) for seed in range(8)], Sampling(max_new_tokens=4)
  )
  assert made.timings.prompt_tokens == len(prompts()[0]) and made.timings.new_tokens == sum(
    len(c.tokens) for c in found
  )
  assert len({c.tokens for c in found}) > 3


@pytest.mark.parametrize('config', [HYBRID, ROTATED, SCANNED], ids=['hybrid', 'rotated', 'scanned'])
def test_groups_that_share_their_prompts_cache_are_given_what_they_are_given_without(config):
  """Groups of 4, 8 and 4 among each other: at once, in groups of 4, and through slots that are
  refilled.
  """
  shared = [Request(prompts()[i], seed) for seed, i in enumerate([3, 0, 7, 7] * 4)]
  sampling = Sampling(max_new_tokens=MAX_NEW)
  together = engine(config, slots=16)
  assert group_size(shared, 16) == 4
  found, refilled = (
    together.generate(shared, sampling),
    engine(config, slots=8).generate(shared, sampling),
  )
  assert [c.tokens for c in found] == [c.tokens for c in refilled] and len(
    {c.tokens for c in found}
  ) > 8
  np.testing.assert_allclose(
    np.concatenate([c.logprobs for c in found]),
    np.concatenate([c.logprobs for c in refilled]),
    atol=1e-4,
  )


def test_first_tokens_are_distributed_as_the_model_says():
  structure, params = model(HYBRID)
  prompt, n = prompts()[0], 4000
  found = engine(slots=64).generate(
    [Request(prompt, seed) for seed in range(n)], Sampling(temperature=1.3, max_new_tokens=1)
  )
  logits = (
    np.asarray(
      structure.bind(params)(np.array([prompt], np.int32), np.ones((1, len(prompt)), np.int32))
    )[0, -1].astype(np.float64)
    / 1.3
  )
  expected = n * np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
  counts = np.bincount([c.tokens[0] for c in found], minlength=VOCABULARY)
  assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(
  'settings',
  [{'top_k': 3}, {'top_p': 0.6}, {'min_p': 0.3}, {'top_k': 4, 'top_p': 0.8, 'min_p': 0.1}],
  ids=str,
)
def test_filters_keep_what_their_papers_keep(settings):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 1.5, (50, 9)).astype(np.float32)
  s = Sampling(**settings)
  kept = np.isfinite(np.asarray(slots_lib.filtered(jnp.asarray(logits), knobs(s))))
  for row, mask in zip(logits.astype(np.float64), kept, strict=True):
    probs, allowed, mass = np.exp(row) / np.exp(row).sum(), set(), 0.0
    for rank, token in enumerate(np.argsort(-row)):
      if (
        (not s.top_k or rank < s.top_k) and mass < s.top_p and probs[token] >= s.min_p * probs.max()
      ):
        allowed.add(int(token))
      mass += probs[token]
    assert set(np.flatnonzero(mask)) == allowed and allowed


def test_stop_texts_end_a_completion_with_the_token_that_completes_them():
  def text(ids):
    return ''.join('abcdefghijk'[i] for i in ids)

  whole = engine().generate(requests(), Sampling(max_new_tokens=MAX_NEW))
  stop = text(whole[0].tokens[3:5])
  found = engine(decode_text=text).generate(
    requests(), Sampling(max_new_tokens=MAX_NEW, stop=(stop, 'never there'))
  )
  assert any(c.finish == 'stop' for c in found) and any(c.finish != 'stop' for c in found)
  for before, after in zip(whole, found, strict=True):
    at = text(before.tokens).find(stop)
    if at < 0:
      assert (after.tokens, after.finish) == (before.tokens, before.finish)
    else:
      assert after.tokens == before.tokens[: at + len(stop)] and len(after.logprobs) == len(
        after.tokens
      )
      assert after.finish == 'stop' or at + len(stop) == len(before.tokens)


def test_the_engine_keeps_no_copy_of_the_weights():
  made = engine()
  params = model(HYBRID)[1]
  assert all(a is params[name] for name, a in made._params.items())


@pytest.mark.parametrize(
  'wrong',
  [
    {'temperature': -1.0},
    {'top_p': 0.0},
    {'min_p': 2.0},
    {'max_new_tokens': 0},
    {'stop': ('',)},
    {'temperature': 0.0, 'top_k': 3},
  ],
)
def test_settings_that_cannot_be_are_refused(wrong):
  with pytest.raises(ValueError, match='sampling'):
    Sampling(**wrong)


def test_mistakes_say_what_to_do():
  with pytest.raises(ValueError, match='prompt 1 is empty'):
    engine().generate([Request((3,)), Request(())], Sampling())
  with pytest.raises(ValueError, match='decode_text'):
    engine().generate([Request((3,))], Sampling(stop=('x',)))
  with pytest.raises(RuntimeError, match='update'):
    Engine(model(HYBRID)[0], eos_ids=[EOS], pad_id=PAD).generate([Request((3,))], Sampling())
  assert engine().generate([], Sampling()) == []
