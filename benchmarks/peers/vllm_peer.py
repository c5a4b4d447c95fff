"""vLLM's side of the comparisons in versus.py; runs in third_party/vllm/.venv."""

import itertools
import os
import sys

os.environ |= {
  'HF_HUB_OFFLINE': '1',
  'VLLM_CPU_KVCACHE_SPACE': '1',
  'VLLM_NO_USAGE_STATS': '1',
  'VLLM_LOGGING_STREAM': 'ext://sys.stderr',
  'TOKENIZERS_PARALLELISM': 'false',
}
ANSWERS = os.dup(1)
os.dup2(2, 1)  # vLLM and its processes write to standard output too
import workload as w
from vllm import LLM, SamplingParams


def sampling(asked: dict):
  made = LLM(
    asked['model'],
    dtype='float32',
    skip_tokenizer_init=True,
    max_model_len=w.PROMPT + w.COMPLETION,
    max_num_seqs=w.PROMPTS * w.GROUP,
    **asked.get('engine', {}),
  )
  wanted = SamplingParams(
    n=w.GROUP,
    temperature=1.0,
    max_tokens=w.COMPLETION,
    ignore_eos=True,
    detokenize=False,
    logprobs=0,
  )
  number = itertools.count()

  def run() -> dict:
    k = next(number)
    found = made.generate(
      [{'prompt_token_ids': w.prompt(k * w.PROMPTS + p)} for p in range(w.PROMPTS)],
      wanted,
      use_tqdm=False,
    )
    return {'tokens': sum(len(c.token_ids) for request in found for c in request.outputs)}

  return run


def request(asked: dict):
  """One at a time, of one new token."""
  made = LLM(
    asked['model'],
    dtype='float32',
    skip_tokenizer_init=True,
    max_model_len=w.PROMPT + w.COMPLETION,
    max_num_seqs=w.PROMPTS * w.GROUP,
    **asked.get('engine', {}),
  )
  wanted = SamplingParams(
    temperature=1.0, max_tokens=1, ignore_eos=True, detokenize=False, logprobs=0
  )
  number = itertools.count()
  return lambda: {
    'requests': len(
      made.generate([{'prompt_token_ids': w.prompt(next(number))}], wanted, use_tqdm=False)
    )
  }


if __name__ == '__main__':
  sys.stdout = os.fdopen(ANSWERS, 'w')
  w.serve(lambda asked: {'sampling': sampling, 'request': request}[asked['workload']](asked))
