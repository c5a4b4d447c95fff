"""TRL's and Hugging Face's side of the comparisons in versus.py.

Runs in third_party/parity/.venv.
"""

import contextlib
import itertools
import os
import sys
import tempfile

os.environ |= {
  'HF_HUB_OFFLINE': '1',
  'CUDA_VISIBLE_DEVICES': '',
  'TRL_EXPERIMENTAL_SILENCE': '1',
  'TOKENIZERS_PARALLELISM': 'false',
}
import workload as w

with contextlib.redirect_stdout(sys.stderr):
  import tokenizers
  import torch
  from datasets import Dataset
  from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
  from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

STEPS = 1_000_000


def load(asked: dict):
  torch.set_num_threads(asked.get('threads', torch.get_num_threads()))
  return AutoModelForCausalLM.from_pretrained(
    asked['model'], dtype=torch.float32, attn_implementation=asked.get('attention', 'sdpa')
  )


def words() -> PreTrainedTokenizerFast:
  size = w.MODEL['vocab_size']
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {'<pad>': 0, '<unk>': 1, '<eos>': 2} | {f'w{i}': i for i in range(3, size)}, unk_token='<unk>'
    )
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
    tokenizer_object=made, pad_token='<pad>', eos_token='<eos>', unk_token='<unk>'
  )


class Gate(TrainerCallback):
  """A turnstile that a trainer passes at every step."""

  def __init__(self):
    self._turnstile = w.Turnstile()
    self.step = self._turnstile.step

  def on_step_begin(self, arguments, state, control, **kwargs):
    self._turnstile.enter()

  def on_step_end(self, arguments, state, control, **kwargs):
    self._turnstile.leave()

  def start(self, trainer) -> None:
    self._turnstile.start(trainer.train)


COMMON = {
  'report_to': [],
  'use_cpu': True,
  'bf16': False,
  'disable_tqdm': True,
  'save_strategy': 'no',
  'logging_strategy': 'no',
  'max_steps': STEPS,
  'gradient_checkpointing': False,
  'lr_scheduler_type': 'constant',
  'dataloader_num_workers': 0,
}


def sft(asked: dict):
  sequences = [w.sequence(i, asked['ragged']).tolist() for i in range(4096)]
  gate = Gate()
  options = {
    'packing': asked.get('packing', False),
    'max_length': w.LENGTH,
    'per_device_train_batch_size': w.ROWS,
    'learning_rate': 1e-4,
    'shuffle_dataset': False,
  }
  with contextlib.redirect_stdout(sys.stderr):
    trainer = SFTTrainer(
      model=load(asked),
      args=SFTConfig(output_dir=tempfile.mkdtemp(), **COMMON, **options),
      train_dataset=Dataset.from_dict({'input_ids': sequences}),
      processing_class=words(),
      callbacks=[gate],
    )
  seen = []
  plain = trainer.compute_loss

  def compute_loss(model, inputs, *arguments, **named):
    tokens = int((inputs['labels'] != -100).sum())
    loss = plain(model, inputs, *arguments, **named)
    seen.append((tokens, float((loss[0] if isinstance(loss, tuple) else loss).detach())))
    return loss

  trainer.compute_loss = compute_loss
  gate.start(trainer)

  def run() -> dict:
    gate.step()
    tokens, loss = seen.pop()
    return {'tokens': tokens, 'loss': loss}

  return run


def sampling(asked: dict):
  model, number = load(asked).eval(), itertools.count()

  def run() -> dict:
    k = next(number)
    prompts = torch.tensor(
      [w.prompt(k * w.PROMPTS + p) for p in range(w.PROMPTS) for _ in range(w.GROUP)]
    )
    with torch.no_grad():
      out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=w.COMPLETION,
        min_new_tokens=w.COMPLETION,
        pad_token_id=w.PAD,
        eos_token_id=w.EOS,
        **asked.get('generate', {}),
      )
    return {'tokens': int(out.shape[0] * (out.shape[1] - w.PROMPT))}

  return run


def grpo(asked: dict):
  gate = Gate()
  rows = [{'prompt': ' '.join(f'w{t}' for t in w.prompt(i))} for i in range(2048)]
  options = {
    'per_device_train_batch_size': w.PROMPTS * w.GROUP // asked.get('accumulate', 1),
    'gradient_accumulation_steps': asked.get('accumulate', 1),
    'num_generations': w.GROUP,
    'max_completion_length': w.COMPLETION,
    'learning_rate': 1e-5,
    'beta': 0.0,
    'temperature': 1.0,
    'generation_kwargs': {'min_new_tokens': w.COMPLETION},
  }

  def reward(completion_ids, **_):
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]

  with contextlib.redirect_stdout(sys.stderr):
    trainer = GRPOTrainer(
      model=load(asked),
      reward_funcs=reward,
      args=GRPOConfig(output_dir=tempfile.mkdtemp(), **COMMON, **options),
      train_dataset=Dataset.from_list(rows),
      processing_class=words(),
      callbacks=[gate],
    )
  gate.start(trainer)

  def run() -> dict:
    gate.step()
    return {'steps': 1, 'tokens': w.PROMPTS * w.GROUP * w.COMPLETION}

  return run


if __name__ == '__main__':
  w.serve(lambda asked: {'sft': sft, 'sampling': sampling, 'grpo': grpo}[asked['workload']](asked))
