"""The other side of import, export and adapters.

Hugging Face saves what we import, and loads what we export, with PEFT's adapters on it.

  third_party/parity/.venv/bin/python third_party/parity/interop.py

Takes a JSON object a line on standard input:

  {"do": "save", "model": DIR, "out": DIR, "max_shard_size": "3KB", "dtype": "bfloat16"}
  from_pretrained, then save_pretrained {"do": "logits", "model": DIR, "adapter": DIR or null,
  "inputs": FILE, "out": FILE}      inputs: tokens, mask [b, t]; out: logits [b, t, v] float32

Answers {"ok": true}, or {"ok": false, "error": ...}.
"""

import json
import sys
import traceback

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def load(directory: str, dtype: torch.dtype):
  return AutoModelForCausalLM.from_pretrained(
    directory, dtype=dtype, attn_implementation='eager'
  ).eval()


def answer(request: dict) -> None:
  if request['do'] == 'save':
    load(request['model'], getattr(torch, request['dtype'])).save_pretrained(
      request['out'], max_shard_size=request['max_shard_size']
    )
    return
  model, inputs = load(request['model'], torch.float32), load_file(request['inputs'])
  if request['adapter'] is not None:
    model = PeftModel.from_pretrained(model, request['adapter']).eval()
  with torch.no_grad():
    logits = model(
      input_ids=inputs['tokens'].long(), attention_mask=inputs['mask'].long(), use_cache=False
    ).logits
  save_file({'logits': logits.float().contiguous()}, request['out'])


def main() -> None:
  torch.set_num_threads(1)
  for line in sys.stdin:
    try:
      answer(json.loads(line))
      reply = {'ok': True}
    except Exception as error:
      reply = {
        'ok': False,
        'error': f'{type(error).__name__}: {error}',
        'trace': traceback.format_exc(limit=4),
      }
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
