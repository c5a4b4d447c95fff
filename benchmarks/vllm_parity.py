"""Greedy answers of a vLLM server beside those of the in-process sampler.

On every dev item of the quickstart campaign.

  .venv/bin/python benchmarks/vllm_parity.py run [--runs=runs/vllm_parity]     micro Nemotron-H and
  micro Qwen3: base, fully fine-tuned, LoRA merged, LoRA hot-loaded; trains what is missing
    .venv/bin/python benchmarks/vllm_parity.py campaign runs/vllm_quickstart     a finished campaign
    that vLLM scored: each sealed candidate's dev answers again, by the sampler
  .venv/bin/python benchmarks/vllm_parity.py table

`run` compares token by token, `campaign` answer by answer. Where two completions part, the token of
each is listed with JAX's log-probability of both: equal within 1e-4 nats is a tie, which rounding
decides; anything else is a difference, and the command ends with status 1. The Qwen3 base is
trained here, for fewer steps than the committed Nemotron-H. Results are kept in
benchmarks/results/vllm_parity.json.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()

import jax
import numpy as np

import aevo_jax.campaign.setup.settings  # noqa: F401  registers what gin may bind
from aevo_jax import layout
from aevo_jax.campaign.trial import submission
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.inference import Vllm
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import scoring, sets
from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.generation.sampler import Sampler
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import Params, Structure, outline

RESULTS = pathlib.Path(__file__).parent / 'results' / 'vllm_parity.json'
TIE = 1e-4
QWEN3 = (
  '--gin_file=configs/recipes/pretrain_micro.gin',
  '--gin_file=configs/models/micro_qwen3.gin',
  '--gin.pretrain.steps=600',
)
LORA = {'adaptation.method': 'lora', 'lora.rank': 16, 'lora.alpha': 32.0, 'lora.targets': 'all'}
SETTINGS = Vllm(max_model_len=512)


class Model:
  """A checkpoint directory, with its dev items as token ids."""

  def __init__(self, base: pathlib.Path):
    self.base, self.config = base, checkpoint.read_config(base)
    self.structure, _ = outline(self.config)
    self.tokenizer, chat = tokenizers.load(str(base)), chat_template.read(str(base))
    self.eos, self.pad = self.tokenizer.token_to_id(chat.eos), self.tokenizer.token_to_id(chat.pad)
    constitution = quickstart()
    self.new = constitution.objective.max_new_tokens
    self.prompts = [
      tuple(self.tokenizer.encode(chat.prompt(item.question), add_special_tokens=False).ids)
      for item in sets.dev_items(constitution)
    ]

  def engine(self, log: pathlib.Path, **settings) -> VllmEngine:
    return VllmEngine(
      dataclasses.replace(SETTINGS, **settings),
      model=self.base,
      structure=self.structure,
      config=self.config,
      eos_ids=[self.eos],
      log=log,
    )

  def compare(self, engine: VllmEngine, path: pathlib.Path, params: Params) -> dict[str, Any]:
    """Answers of the engine with the file to every dev item, beside the sampler with `params`."""
    engine.load(path, file_digest(path), params)
    requests = [Request(prompt) for prompt in self.prompts]
    theirs = engine.generate(requests, Sampling(temperature=0.0, max_new_tokens=self.new))
    ours = [
      (*answer, self.eos)[: self.new]
      for answer in Sampler(
        self.structure, eos_id=self.eos, pad_id=self.pad, max_new_tokens=self.new
      )(params, self.prompts)
    ]
    gaps = [
      abs(a - b)
      for c, row in zip(
        theirs, logprobs(self.structure, params, requests, [c.tokens for c in theirs]), strict=False
      )
      for a, b in zip(c.logprobs, row, strict=False)
    ]
    return {
      'items': len(requests),
      'tokens': len(gaps),
      'gap_max': max(gaps),
      'probe_gap': engine.gap,
      'digest': engine.digest,
      'restarts': engine.server.starts - 1,
      'differences': [
        self._difference(i, params, theirs[i], own)
        for i, own in enumerate(ours)
        if theirs[i].tokens != own
      ],
    }

  def _difference(
    self, item: int, params: Params, theirs: Completion, ours: tuple[int, ...]
  ) -> dict[str, Any]:
    at = next(k for k in range(self.new) if theirs.tokens[k : k + 1] != ours[k : k + 1])
    request = Request(self.prompts[item])
    said = logprobs(
      self.structure, params, [request, request], [theirs.tokens[: at + 1], ours[: at + 1]]
    )
    a, b = said[0][-1], said[1][-1]
    return {
      'item': item,
      'at': at,
      'vllm': {'token': theirs.tokens[at], 'logprob': theirs.logprobs[at], 'logprob_jax': a},
      'jax': {'token': ours[at], 'logprob_jax': b},
      'tie': abs(a - b) <= TIE,
    }


def logprobs(
  structure: Structure,
  params: Params,
  requests: Sequence[Request],
  completions: Sequence[Sequence[int]],
) -> list[list[float]]:
  """Of each token of each completion, by JAX in float32."""
  length = max(len(r.prompt) + len(c) for r, c in zip(requests, completions, strict=False))
  said = jax.jit(lambda p, t: jax.nn.log_softmax(structure.bind(p)(t, np.ones(t.shape, np.int32))))
  found = []
  for start in range(0, len(requests), 100):
    own, answers = requests[start : start + 100], completions[start : start + 100]
    rows = np.zeros((100, length), np.int32)
    for row, request, answer in zip(rows, own, answers, strict=False):
      row[: len(request.prompt) + len(answer)] = (*request.prompt, *answer)
    numbers = np.asarray(said(params, rows))
    found += [
      [float(numbers[i, len(r.prompt) - 1 + k, token]) for k, token in enumerate(answer)]
      for i, (r, answer) in enumerate(zip(own, answers, strict=False))
    ]
  return found


def quickstart() -> constitution_lib.Constitution:
  loading.load(
    [
      str(layout.root_file('constitution.gin')),
      str(layout.root_file('configs') / 'campaigns' / 'quickstart.gin'),
    ],
    [],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


def aevo(*arguments: str) -> None:
  subprocess.run([sys.executable, '-m', 'aevo_jax.cli', *arguments], check=True)


def trained(base: pathlib.Path, out: pathlib.Path, **bindings) -> pathlib.Path:
  """The weights of `aevo train` on the base, adapters merged."""
  weights = out / 'export' / checkpoint.WEIGHTS
  if not weights.exists():
    aevo(
      'train',
      f'--base={base}',
      f'--out={out}',
      *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    )
  return weights


def run(runs: pathlib.Path) -> list[dict[str, Any]]:
  qwen3, rows = runs / 'qwen3_base', []
  if not (qwen3 / 'pretrain.json').exists():
    aevo('pretrain', *QWEN3, f'--out={qwen3}')
  for name, base in (
    ('micro Nemotron-H', layout.root_file('substrate') / 'base'),
    ('micro Qwen3', qwen3),
  ):
    model, own = Model(base), runs / name.split()[1].lower().replace('-', '_')
    full, lora = trained(base, own / 'full'), trained(base, own / 'lora', **LORA)
    adapter = own / 'adapter'
    shutil.rmtree(adapter, ignore_errors=True)
    submission.write_adapter(
      adapter,
      own / 'lora',
      base,
      '\n'.join(f'{selector} = {value!r}' for selector, value in LORA.items()),
      base_name=str(base),
      max_rank=None,
    )

    def read(path, model=model):
      return weights_lib.load(path, model.config)

    plain = {'base': base / checkpoint.WEIGHTS, 'fully fine-tuned': full, 'LoRA, merged': lora}
    for settings, files in (
      ({}, plain),
      (
        {'carrier': 'lora', 'lora_rank': LORA['lora.rank']},
        {'LoRA, hot-loaded': adapter / peft_adapter.WEIGHTS},
      ),
    ):
      with model.engine(own / 'vllm.log', **settings) as engine:
        for weights, path in files.items():
          found = {'model': name, 'weights': weights} | model.compare(
            engine, path, read(plain.get(weights, lora))
          )
          print(row(found), flush=True)
          rows.append(found)
  return rows


def campaign(directory: pathlib.Path) -> dict[str, Any]:
  """The sampler's answers to the dev items for everything that the campaign scored on them."""
  constitution = constitution_lib.read(directory / 'constitution.gin')
  if constitution.evaluation.engine != 'vllm':
    raise SystemExit(
      f'vllm_parity: {directory} was scored with {constitution.evaluation.engine!r}; give '
      "a campaign with evaluation.engine = 'vllm'"
    )
  base = layout.root_file('substrate') / 'base'
  model = Model(base)
  scorer = scoring.Scorer(
    model.structure,
    model.tokenizer,
    sets.dev_items(constitution),
    max_new_tokens=constitution.objective.max_new_tokens,
    chat=chat_template.read(str(base)),
    verifier=constitution.objective.verifier,
  )
  found, methods = [], collections.Counter()
  for path in sorted((directory / 'scores').glob('*.dev.json')):
    scored, trial = json.loads(path.read_text()), path.name.split('.')[0]
    weights = (
      base / checkpoint.WEIGHTS
      if trial == 'base'
      else directory / 'trials' / trial / submission.EXPORT
    )
    if file_digest(weights) != scored['file_digest']:
      raise SystemExit(f'vllm_parity: {weights} is not the file that was scored as {trial}')
    ours, theirs = (
      scorer(weights_lib.load(weights, model.config)),
      scoring.from_rows(scored['items']),
    )
    resolved = (
      {}
      if trial == 'base'
      else json.loads((directory / 'trials' / trial / 'resolved.json').read_text())
    )
    methods['base' if trial == 'base' else resolved['adaptation.method']] += 1
    found.append(
      {
        'trial': trial,
        'items': len(ours),
        'differ': [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b],
      }
    )
    print(f'{trial}: {len(found[-1]["differ"])} of {len(ours)} answers differ', flush=True)
  return {
    'campaign': json.loads((directory / 'command.json').read_text())['command'],
    'scored': found,
    'methods': dict(methods),
    **facts(),
  }


def facts() -> dict[str, str]:
  return {
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'machine': f'{platform.machine()}, {platform.system()}, {len(os.sched_getaffinity(0))} cores',
  }


def row(found: dict[str, Any]) -> str:
  ties = sum(d['tie'] for d in found['differences'])
  return (
    f'| {found["model"]} | {found["weights"]} | {found["items"]} | '
    f'{found["items"] - len(found["differences"])} | {ties} | '
    f'{len(found["differences"]) - ties} | {found["tokens"]} | '
    f'{found["gap_max"]:.1e} | {found["probe_gap"]:.1e} |'
  )


def table(results: dict[str, Any]) -> str:
  lines = []
  if found := results.get('models'):
    lines += [
      (
        '| model | weights | dev items | same tokens | parted at a tie | parted elsewhere '
        "| tokens compared | largest gap of log-probabilities | the probe's |"
      ),
      '|---|---|---|---|---|---|---|---|---|',
      *map(row, found['rows']),
      '',
    ]
    lines += [
      (
        f'{r["model"]}, {r["weights"]}, item {d["item"]}, token {d["at"]}: vLLM '
        f'{d["vllm"]}, JAX {d["jax"]}'
      )
      for r in found['rows']
      for d in r['differences']
    ]
    lines += [f'{found["date"]}, {found["machine"]}', '']
  if found := results.get('campaign'):
    scored = found['scored']
    lines += [
      f'`{found["campaign"]}`: of {sum(s["items"] for s in scored)} dev answers of '
      f'{len(scored)} scored weights '
      f'({", ".join(f"{n} {m}" for m, n in sorted(found["methods"].items()))}) '
      f"{sum(len(s['differ']) for s in scored)} differ from the sampler's",
      *(f'{s["trial"]}: items {s["differ"]}' for s in scored if s['differ']),
      f'{found["date"]}, {found["machine"]}',
    ]
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'campaign', 'table'])
  parser.add_argument('campaign', type=pathlib.Path, nargs='?')
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'vllm_parity')
  arguments = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  if arguments.mode == 'campaign' and arguments.campaign is None:
    parser.error('say which campaign')
  if arguments.mode == 'run':
    results['models'] = {'rows': run(arguments.runs.absolute()), **facts()}
  elif arguments.mode == 'campaign':
    results['campaign'] = campaign(arguments.campaign)
  if arguments.mode != 'table':
    RESULTS.write_text(json.dumps(results, indent=1) + '\n')
  print(table(results))
  if arguments.mode != 'campaign' and any(
    not d['tie'] for r in results.get('models', {}).get('rows', []) for d in r['differences']
  ):
    sys.exit('vllm_parity: completions part elsewhere than at a tie')
  if arguments.mode == 'campaign' and any(s['differ'] for s in results['campaign']['scored']):
    sys.exit(
      'vllm_parity: answers differ; compare these weights with `run` to see where their tokens part'
    )


if __name__ == '__main__':
  main()
