"""Tunix' side of the comparisons in versus.py; runs in third_party/maxtext/.venv."""

import contextlib
import itertools
import os
import sys

os.environ |= {'JAX_PLATFORMS': 'cpu', 'HF_HUB_OFFLINE': '1'}
import workload as w

with contextlib.redirect_stdout(sys.stderr):
  import jax
  import numpy as np
  import optax
  from flax import nnx
  from tunix.generate.sampler import CacheConfig, Sampler
  from tunix.models.qwen3 import model as qwen3
  from tunix.models.qwen3 import params as qwen3_params
  from tunix.rl import rl_cluster
  from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
  from tunix.rl.rollout.base_rollout import RolloutConfig

M = w.MODEL
NO_END = [M['vocab_size']]  # no token of the model ends a completion
CACHE = w.PROMPT + w.COMPLETION


class Tokens:
  """Text is token numbers with spaces between them."""

  def encode(self, text: str) -> list[int]:
    return [int(t) for t in text.split()]

  def decode(self, ids: list[int]) -> str:
    return ' '.join(map(str, ids))

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return w.EOS

  def pad_id(self) -> int:
    return w.PAD


def mesh() -> jax.sharding.Mesh:
  return jax.make_mesh((1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def load(asked: dict, on: jax.sharding.Mesh) -> nnx.Module:
  config = qwen3.ModelConfig(
    num_layers=M['num_hidden_layers'],
    vocab_size=M['vocab_size'],
    embed_dim=M['hidden_size'],
    hidden_dim=M['intermediate_size'],
    num_heads=M['num_attention_heads'],
    head_dim=M['head_dim'],
    num_kv_heads=M['num_key_value_heads'],
    rope_theta=int(M['rope_theta']),
    norm_eps=M['rms_norm_eps'],
    use_tied_embedding=True,
    dtype=np.float32,
    param_dtype=np.float32,
  )
  return qwen3_params.create_model_from_safe_tensors(asked['model'], config, on, dtype=np.float32)


def texts(k: int) -> list[str]:
  return [Tokens().decode(w.prompt(k * w.PROMPTS + p)) for p in range(w.PROMPTS)]


def sampling(asked: dict):
  with contextlib.redirect_stdout(sys.stderr):
    made = Sampler(
      load(asked, mesh()),
      Tokens(),
      CacheConfig(CACHE, M['num_hidden_layers'], M['num_key_value_heads'], M['head_dim']),
    )
  number = itertools.count()

  def run() -> dict:
    k = next(number)
    found = made(
      [text for text in texts(k) for _ in range(w.GROUP)],
      max_generation_steps=w.COMPLETION,
      max_prompt_length=w.PROMPT,
      temperature=1.0,
      top_p=1.0,
      seed=k,
      eos_tokens=NO_END,
      return_logprobs=True,
    )
    return {'tokens': sum(len(t) for t in found.tokens)}

  return run


def grpo(asked: dict):
  gate, on = w.Turnstile(), mesh()

  def batches():
    for k in itertools.count():
      gate.enter()
      yield {'prompts': np.array(texts(k))}
      jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
      gate.leave()

  def reward(prompts, completions, **_) -> list[float]:
    return [float(np.mean([t % 2 == 0 for t in Tokens().encode(text)])) for text in completions]

  training = rl_cluster.RLTrainingConfig(
    actor_optimizer=optax.adamw(1e-5),
    eval_every_n_steps=1 << 30,
    max_steps=1 << 30,
    mini_batch_size=w.PROMPTS,
    train_micro_batch_size=w.PROMPTS // asked.get('accumulate', 1),
    rollout_micro_batch_size=w.PROMPTS,
    compute_logps_micro_batch_size=w.PROMPTS,
  )
  rollout = RolloutConfig(
    max_tokens_to_generate=w.COMPLETION,
    max_prompt_length=w.PROMPT,
    kv_cache_size=CACHE,
    temperature=1.0,
    top_p=1.0,
    eos_tokens=NO_END,
  )
  with contextlib.redirect_stdout(sys.stderr):
    cluster = rl_cluster.RLCluster(
      actor=load(asked, on),
      tokenizer=Tokens(),
      cluster_config=rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(
          (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT), on
        ),
        training_config=training,
        rollout_config=rollout,
      ),
    )
    learner = GRPOLearner(cluster, GRPOConfig(num_generations=w.GROUP, beta=0.0), reward)
  gate.start(lambda: learner.train(batches()))

  def run() -> dict:
    gate.step()
    return {'steps': 1, 'tokens': w.PROMPTS * w.GROUP * w.COMPLETION}

  return run


if __name__ == '__main__':
  w.serve(lambda asked: {'sampling': sampling, 'grpo': grpo}[asked['workload']](asked))
  os._exit(0)  # the learner's threads wait for a step that does not come
