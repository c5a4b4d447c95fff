"""The reference's side of `make parity`.

Hugging Face's logits and gradients for a checkpoint, in an environment with torch.

  third_party/parity/.venv/bin/python third_party/parity/reference.py

Takes a directory a line on standard input. It holds config.json, model.safetensors and
inputs.safetensors: tokens [b, t], mask [b, t] (1 where a token is), weights [b, t] float32. Writes
outputs.safetensors: logits [b, t, v] and, as `grad.NAME`, the gradient of

    sum over b, t, v of weights[b, t] * cos(v) * log_softmax(logits)[b, t, v]

with respect to every parameter. Where inputs.safetensors has prompt [1], also `decoded` [b, t -
prompt + 1, v]: logits of the last of so many tokens read at once and of each that follows, one by
one. Answers {"ok": true}, or {"ok": false, "error": ...}.
"""

import json
import pathlib
import sys
import traceback

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def answer(directory: pathlib.Path) -> None:
  inputs = load_file(directory / 'inputs.safetensors')
  model = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, attn_implementation='eager'
  ).train()
  logits = model(
    input_ids=inputs['tokens'].long(), attention_mask=inputs['mask'].long(), use_cache=False
  ).logits
  classes = torch.cos(torch.arange(logits.shape[-1], dtype=torch.float32))
  (inputs['weights'][..., None] * classes * torch.log_softmax(logits, dim=-1)).sum().backward()
  outputs = {'logits': logits.detach()}
  outputs |= {f'grad.{name}': p.grad for name, p in model.named_parameters() if p.grad is not None}
  if 'prompt' in inputs:
    outputs['decoded'] = decoded(model, inputs['tokens'].long(), int(inputs['prompt'][0]))
  save_file(
    {name: value.contiguous().clone() for name, value in outputs.items()},
    directory / 'outputs.safetensors',
  )


@torch.no_grad()
def decoded(model, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
  model = model.eval()
  read = model(input_ids=tokens[:, :prompt], use_cache=True)
  logits = [read.logits[:, -1]]
  for t in range(prompt, tokens.shape[1]):
    read = model(
      input_ids=tokens[:, t : t + 1], past_key_values=read.past_key_values, use_cache=True
    )
    logits.append(read.logits[:, -1])
  return torch.stack(logits, 1)


def main() -> None:
  torch.set_num_threads(1)
  for line in sys.stdin:
    try:
      answer(pathlib.Path(line.strip()))
      reply = {'ok': True}
    except Exception:
      reply = {'ok': False, 'error': traceback.format_exc(limit=4)}
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
