"""`aevo evaluate` through a real vLLM server (`make vllm`): lm-evaluation-harness (`make harness`)
and the puzzles, each beside what JAX computes of the same weights.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tokenizers

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as base_tokenizer
from aevo_jax.generation.sampler import Sampler
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Params, Structure, outline
from aevo_jax.tasks.mixture import Mixture, item_at

pytestmark = pytest.mark.vllm

REPOSITORY = pathlib.Path(layout.__file__).resolve().parent.parent
BASE = layout.root_file('substrate') / 'base'
ITEMS, LENGTH = 48, 56


def aevo(*arguments, home):
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'} | {
    'PYTHONPATH': str(REPOSITORY),
    'HF_HOME': str(home),
  }
  done = subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', *map(str, arguments)],
    capture_output=True,
    text=True,
    env=environment,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def write_tasks(directory):
  """Puzzles as tasks of lm-eval: their answer among others of the same family, and as it is
  written. -> the rows, in order.
  """
  items = [item_at(7, 'train', i, Mixture()) for i in range(4 * ITEMS)]
  rows = []
  for k, item in enumerate(items[:ITEMS]):
    others = list(
      dict.fromkeys(o.answer for o in items if o.family == item.family and o.answer != item.answer)
    )[:3]
    choices = [*others[: k % 4], item.answer, *others[k % 4 :]]
    rows.append(
      {
        'question': item.question,
        'choices': choices,
        'label': choices.index(item.answer),
        'answer': item.answer,
      }
    )
  (directory / 'puzzles.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  common = {
    'dataset_path': 'json',
    'dataset_kwargs': {'data_files': {'test': str(directory / 'puzzles.jsonl')}},
    'test_split': 'test',
    'target_delimiter': '',
    'metadata': {'version': 1},
  }
  tasks = {
    'choose': {
      'doc_to_text': '{{question}}',
      'gen_prefix': '\\boxed{',
      'output_type': 'multiple_choice',
      'doc_to_choice': '{{choices}}',
      'doc_to_target': 'label',
      'metric_list': [{'metric': 'acc'}],
    },
    'answer': {
      'doc_to_text': '{{question}}',
      'output_type': 'generate_until',
      'doc_to_target': '{{answer}}',
      'generation_kwargs': {'until': ['}'], 'max_gen_toks': LENGTH, 'do_sample': False},
      'filter_list': [
        {
          'name': 'boxed',
          'filter': [
            {'function': 'regex', 'regex_pattern': r'boxed\{(.*)', 'group_select': -1},
            {'function': 'take_first'},
          ],
        }
      ],
      'metric_list': [{'metric': 'exact_match'}],
    },
  }
  for name, task in tasks.items():
    (directory / f'{name}.yaml').write_text(
      json.dumps(common | {'task': f'puzzles_{name}'} | task)
    )  # JSON is YAML
  return rows


class Ours(NamedTuple):
  """The base, in this process."""

  structure: Structure
  params: Params
  tokenizer: tokenizers.Tokenizer

  @classmethod
  def load(cls) -> 'Ours':
    config = checkpoint.read_config(BASE)
    structure, _ = outline(config)
    params = weights_lib.load(BASE / 'model.safetensors', config)
    return cls(structure, params, base_tokenizer.load(str(BASE)))

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False).ids

  def contexts(self, rows) -> list[list[int]]:
    return [self.encode(f'<|user|>{row["question"]}<|assistant|>') for row in rows]

  def choices(self, rows) -> list[list[tuple[float, bool]]]:
    """Of every row the log-likelihood of each choice, and whether it is the greedy one, by one
    forward pass of all of them.
    """
    cases = []
    for i, context in enumerate(self.contexts(rows)):
      for choice in rows[i]['choices']:
        cases.append((i, context + self.encode('\\boxed{'), self.encode(choice)))
    longest = max(len(context) + len(choice) for _, context, choice in cases)
    tokens = np.zeros((len(cases), longest), np.int32)
    for line, (_, context, choice) in zip(tokens, cases, strict=True):
      line[: len(context) + len(choice)] = context + choice

    def logprobs(params, tokens):
      logits = self.structure.bind(params)(tokens, np.ones(tokens.shape, np.int32))
      return jax.nn.log_softmax(logits.astype(np.float32))

    computed = np.asarray(jax.jit(logprobs)(self.params, tokens))
    likelihoods = [[] for _ in rows]
    for line, (i, context, choice) in zip(computed, cases, strict=True):
      positions = line[len(context) - 1 : len(context) + len(choice) - 1]
      total = float(positions[np.arange(len(choice)), choice].astype(np.float64).sum())
      likelihoods[i].append((total, bool((positions.argmax(-1) == choice).all())))
    return likelihoods

  def answers(self, rows) -> list[str]:
    """Of every row the completion up to its box's end, by the sampler of this process."""
    chat = chat_template.read(str(BASE))
    sampler = Sampler(
      self.structure,
      eos_id=self.tokenizer.token_to_id(chat.eos),
      pad_id=self.tokenizer.token_to_id(chat.pad),
      max_new_tokens=LENGTH,
    )
    completions = sampler(self.params, self.contexts(rows))
    return [self.tokenizer.decode(ids).split('}')[0] for ids in completions]


def test_lm_eval_counts_what_jax_computes(tmp_path):
  pytest.importorskip('lm_eval', reason='lm_eval is not installed: make harness')
  rows = write_tasks(tmp_path)
  result = json.loads(
    aevo(
      'evaluate',
      BASE,
      '--harness=lm_eval',
      '--tasks=puzzles_choose,puzzles_answer',
      f'--include_path={tmp_path}',
      '--apply_chat_template',
      '--json',
      f'--samples={tmp_path / "samples.jsonl"}',
      '--gin.vllm.max_model_len=512',
      home=tmp_path / 'hf',
    )
  )
  samples = [json.loads(line) for line in (tmp_path / 'samples.jsonl').read_text().splitlines()]
  chosen, answered = (
    {s['doc_id']: s for s in samples if s['task'] == f'puzzles_{name}'}
    for name in ('choose', 'answer')
  )
  assert len(chosen) == len(answered) == ITEMS
  digest = file_digest(BASE / 'model.safetensors')
  assert (result['file_digest'], result['served_digest'], result['vllm_version']) == (
    digest,
    digest,
    '0.32.0',
  ) and len(result['task_hashes']['puzzles_choose']) == 64

  base = Ours.load()
  ours = base.choices(rows)
  theirs = [
    [(float(answer[0]), answer[1] in (True, 'True')) for (answer,) in chosen[i]['resps']]
    for i in range(ITEMS)
  ]
  gaps = [
    abs(a - b)
    for mine, other in zip(ours, theirs, strict=True)
    for (a, _), (b, _) in zip(mine, other, strict=True)
  ]
  choices = sum(len(row['choices']) for row in rows)
  assert len(gaps) == choices >= 150 and max(gaps) <= 1e-4, max(gaps)
  greedy = [[is_greedy for _, is_greedy in of_row] for of_row in theirs]
  assert greedy == [[is_greedy for _, is_greedy in of_row] for of_row in ours]
  assert any(map(any, greedy))
  best = [int(np.argmax([p for p, _ in of_row])) for of_row in ours]
  right = sum(choice == row['label'] for choice, row in zip(best, rows, strict=True))
  assert 0 < right < ITEMS
  assert result['results']['puzzles_choose']['acc,none'] == right / ITEMS

  texts = base.answers(rows)
  assert [answered[i]['resps'][0][0] for i in range(ITEMS)] == texts
  boxed = [text.rpartition('boxed{')[2] for text in texts]
  right = sum(answer == row['answer'] for answer, row in zip(boxed, rows, strict=True))
  assert 0 < right < ITEMS
  assert result['results']['puzzles_answer']['exact_match,boxed'] == right / ITEMS


def test_a_server_scores_puzzles_as_this_process_does_of_an_import(tmp_path):
  aevo('import_hf', BASE, f'--out={tmp_path / "imported"}', home=tmp_path)
  asked = ('--items=60', '--json')
  ours = json.loads(aevo('evaluate', tmp_path / 'imported', *asked, home=tmp_path))
  theirs = json.loads(
    aevo(
      'evaluate',
      tmp_path / 'imported',
      *asked,
      "--gin.evaluation.engine='vllm'",
      '--gin.vllm.max_model_len=512',
      home=tmp_path,
    )
  )
  assert (
    (theirs.pop('engine'), len(theirs.pop('served_digest'))) == ('vllm', 64)
    and theirs == ours
    and 0 < ours['overall']['correct'] < 60
  )
