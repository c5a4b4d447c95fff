"""What TRL's trainers say of a model and a batch.

Loss, its gradient by every parameter, and the advantages of rewards.

  third_party/parity/.venv/bin/python third_party/parity/trl_losses.py

Takes a JSON object a line on standard input:

  {"do": "sft" | "dpo" | "distillation" | "grpo" | "rloo", "model": DIR, "reference": DIR or null,
  "options": of the trainer's configuration, "inputs": FILE, "out": FILE} {"do": "advantages",
  "trainer": "grpo" | "rloo", "model": DIR, "options": ..., "rewards": [...], "generations": G}
  -> {"advantages": [...]} {"do": "versions"}

inputs: tokens, segment_ids, mask [b, t]; mask is 1 on completions. grpo: prompt_length (how many
columns are prompt), advantages, old_logprobs, ref_logprobs, correction, [b, t] each. out: loss,
grad.NAME by Hugging Face's names. Answers {"ok": true}, or {"ok": false, "error": ...}.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
import tempfile
import traceback

os.environ |= {'HF_HUB_OFFLINE': '1', 'CUDA_VISIBLE_DEVICES': '', 'TRL_EXPERIMENTAL_SILENCE': '1'}
with contextlib.redirect_stdout(sys.stderr):
  import tokenizers
  import torch
  from datasets import Dataset
  from safetensors.torch import load_file, save_file
  from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
  from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
  )
  from trl.trainer.distillation_trainer import _chunked_divergence_loss

TRAINERS = {
  'sft': (SFTTrainer, SFTConfig),
  'dpo': (DPOTrainer, DPOConfig),
  'grpo': (GRPOTrainer, GRPOConfig),
  'rloo': (RLOOTrainer, RLOOConfig),
}


def load(directory: str):
  return AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, attn_implementation='eager'
  )


def tokenizer(size: int) -> PreTrainedTokenizerFast:
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {'<pad>': 0, '<unk>': 1, '<eos>': 2} | {f'w{i}': i for i in range(3, size)}, unk_token='<unk>'
    )
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token='<pad>', eos_token='<eos>', unk_token='<unk>'
  )


def trainer(kind: str, model, scratch: str, options: dict, rewards=None, reference=None):
  cls, config = TRAINERS[kind]
  words = tokenizer(model.config.vocab_size)
  arguments = config(
    output_dir=scratch,
    report_to=[],
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    disable_tqdm=True,
    **options,
  )
  rows = {
    'sft': [{'text': 'w3 w4 w5'}],
    'dpo': [{'prompt': 'w3', 'chosen': ' w4', 'rejected': ' w5'}],
  }.get(kind, [{'prompt': 'w3'}])
  extra = {}
  if kind in ('grpo', 'rloo'):
    extra['reward_funcs'] = lambda completions, **_: rewards or [0.0] * len(completions)
  if kind == 'dpo':
    extra['ref_model'] = reference
  made = cls(
    model=model,
    args=arguments,
    train_dataset=Dataset.from_list(rows * 8),
    processing_class=words,
    **extra,
  )
  made.current_gradient_accumulation_steps = 1
  return made


def _distillation(model, reference, tokens, attended, mask):
  """Computes TRL's chunked divergence of the student from its teacher."""
  with torch.no_grad():
    teacher = reference.eval().model(input_ids=tokens, attention_mask=attended).last_hidden_state
  student = model.model(input_ids=tokens, attention_mask=attended).last_hidden_state
  loss, _, _ = _chunked_divergence_loss(
    student[:, :-1],
    teacher[:, :-1],
    model.lm_head.weight,
    reference.lm_head.weight,
    mask[:, 1:],
    1.0,
  )
  return loss


def loss_of(request: dict, scratch: str):
  """(the trainer's model, its loss)."""
  kind, model, inputs = request['do'], load(request['model']), load_file(request['inputs'])
  tokens, attended, mask = (
    inputs['tokens'].long(),
    (inputs['segment_ids'] > 0).long(),
    inputs['mask'].long(),
  )
  reference = load(request['reference']) if request.get('reference') else None
  if kind == 'distillation':
    return model, _distillation(model, reference, tokens, attended, mask)
  made = trainer(kind, model, scratch, request['options'], reference=reference)
  made.model.train()
  if kind == 'sft':
    return made.model, made.compute_loss(
      made.model,
      {
        'input_ids': tokens,
        'attention_mask': attended,
        'labels': tokens.masked_fill(mask == 0, -100),
      },
    )
  if kind == 'dpo':  # all chosen, then all rejected
    tokens, attended, mask = (torch.cat([x[0::2], x[1::2]]) for x in (tokens, attended, mask))
    return made.model, made._compute_loss(
      made.model, {'input_ids': tokens, 'attention_mask': attended, 'completion_mask': mask}, False
    )
  batch = completion_batch(kind, inputs, tokens, attended, mask)
  if kind != 'rloo':
    made.args.steps_per_generation = 1
    if 'correction' in inputs:
      made.use_vllm = True
      made.vllm_importance_sampling_correction = True
  return made.model, made._compute_loss(made.model, batch)


def completion_batch(kind, inputs, tokens, attended, mask) -> dict:
  """The batch of a trainer that learns from sampled completions."""
  start = int(inputs['prompt_length'])

  def completion(name):
    return inputs[name][:, start:].float()

  batch = {
    'prompt_ids': tokens[:, :start],
    'prompt_mask': attended[:, :start],
    'completion_ids': tokens[:, start:],
    'completion_mask': mask[:, start:],
    'advantages': completion('advantages')[:, 0] if kind == 'rloo' else completion('advantages'),
    'num_items_in_batch': mask.sum(),
  }
  if kind == 'rloo':
    return batch | {'old_logps': (completion('old_logprobs') * mask[:, start:]).sum(1)}
  batch |= {
    'old_per_token_logps': completion('old_logprobs'),
    'ref_per_token_logps': completion('ref_logprobs'),
  }
  if 'correction' in inputs:
    batch['importance_sampling_ratio'] = completion('correction')
  return batch


def advantages(request: dict, scratch: str) -> list[float]:
  """Of completions with given rewards, which the trainer believes it has generated."""
  rewards, size = request['rewards'], request['generations']
  made = trainer(
    request['trainer'],
    load(request['model']),
    scratch,
    request['options'] | {'num_generations': size, 'per_device_train_batch_size': len(rewards)},
    rewards,
  )
  made.model.train()
  texts = [f'w{3 + i % 4}' for i in range(len(rewards))]
  ids = [[3 + i % 4, 2] for i in range(len(rewards))]
  said = (
    ([[3]] * len(rewards), ids, texts)
    if request['trainer'] == 'rloo'
    else ([[3]] * len(rewards), ids, None, texts, None, {}, None, None)
  )
  made._generate = lambda prompts: said
  return made._generate_and_score_completions([{'prompt': 'w3'}] * len(rewards))[
    'advantages'
  ].tolist()


def answer(request: dict) -> dict:
  if request['do'] == 'versions':
    return {
      name: importlib.metadata.version(name) for name in ('trl', 'transformers', 'torch', 'peft')
    }
  with tempfile.TemporaryDirectory() as scratch:
    if request['do'] == 'advantages':
      return {'advantages': advantages(request, scratch)}
    model, loss = loss_of(request, scratch)
    loss = loss[0] if isinstance(loss, tuple) else loss
    loss.backward()
  gradients = {
    f'grad.{name}': p.grad.contiguous()
    for name, p in model.named_parameters()
    if p.grad is not None
  }
  save_file({'loss': loss.detach().reshape(1)} | gradients, request['out'])
  return {}


def main() -> None:
  torch.set_num_threads(1)
  for line in sys.stdin:
    try:
      with contextlib.redirect_stdout(sys.stderr):
        reply = {'ok': True} | answer(json.loads(line))
    except Exception as error:
      reply = {
        'ok': False,
        'error': f'{type(error).__name__}: {error}',
        'trace': traceback.format_exc(limit=-4),
      }
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
