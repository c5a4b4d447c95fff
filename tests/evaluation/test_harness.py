"""lm-evaluation-harness through an engine: what is encoded, cut and asked, where completions end,
and what is refused. The engine is made of lists here; test_harness_vllm.py has a real one.
"""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from aevo_jax import layout
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as base_tokenizer
from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.evaluation import harness
from aevo_jax.evaluation.harness_answers import Answers, HarnessError, generation
from aevo_jax.generation.protocol import Completion, Continuation, Sampling, Scored

BASE = layout.root_file('substrate') / 'base'
TOKENIZER, CHAT = base_tokenizer.load(str(BASE)), chat_template.read(str(BASE))
BOS = TOKENIZER.token_to_id('<|bos|>')


class Listed:
  """An engine that says what it is told to: `says` of texts, each token of a continuation worth
  -(id + 1).
  """

  def __init__(self, *says, finish='length', tokenizer=TOKENIZER):
    self.says, self.finish, self.tokenizer, self.asked, self.starts = (
      list(says),
      finish,
      tokenizer,
      [],
      0,
    )

  def generate(self, requests, sampling):
    self.asked.append((requests, sampling))
    return [
      Completion(
        tuple(self.tokenizer.encode(self.says[request.seed], add_special_tokens=False).ids),
        (),
        self.finish,
        0,
      )
      for request in requests
    ]

  def score(self, continuations):
    self.asked.append(continuations)
    return [
      Scored(
        tuple(-1.0 - token for token in c.tokens), tuple(token % 2 == 0 for token in c.tokens), 0
      )
      for c in continuations
    ]


def answers(engine=None, *, room=512, tokenizer=TOKENIZER, chat=CHAT, **more):
  return Answers(engine or Listed(), tokenizer, chat, max_model_len=room, **more)


def ids(text):
  return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def merging():
  """A tokenizer whose tokens run over spaces and letters, and which begins every text with a token
  of its own.
  """
  vocabulary = {
    token: i for i, token in enumerate(['<s>', '</s>', 'a', 'b', ' ', ' b', 'ab', ' ab'])
  }
  made = tokenizers.Tokenizer(models.BPE(vocabulary, [('a', 'b'), (' ', 'ab'), (' ', 'b')]))
  made.add_special_tokens(['<s>', '</s>'])
  made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r' ?[ab]+| '), behavior='isolated')
  made.post_processor = processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 0)])
  made.decoder = decoders.Fuse()
  return made


PAIRS = [('a', ' b'), ('a ', 'b'), ('a  ', 'b'), ('ab', 'ab'), ('<s>a', ' ab'), ('b a b', ' a b')]


def test_pairs_are_split_where_the_context_alone_would_end():
  made = answers(tokenizer=merging(), chat=ChatFormat('', '<s>', '</s>', '</s>'))
  assert (
    made.pair('a', ' b') == made.pair('a ', 'b') == Continuation((0, 2), (5,))
  )  # the space goes with what follows it, as it is written
  assert made.pair('b', ' ab') == Continuation((0, 3), (7,))
  assert made.pair('<s>a', ' b') == Continuation((0, 2), (5,))  # no second <s>
  assert (
    made.pair('', 'ab') == Continuation((0,), (6,))
    and made.pair('', '<s>ab') == Continuation((0,), (6,))
    and made.pair(' ', 'b') == Continuation((0,), (5,))
  )
  with pytest.raises(HarnessError, match='adds no token'):
    made.pair('a', '')
  assert made.encode('ab') == [0, 6]


@pytest.mark.parametrize(
  'tokenizer, chat', [(merging(), ChatFormat('', '<s>', '</s>', '</s>')), (TOKENIZER, CHAT)]
)
def test_pairs_are_those_of_lm_eval(tokenizer, chat):
  api = pytest.importorskip('lm_eval.api.model', reason='lm_eval is not installed: make harness')
  made = answers(tokenizer=tokenizer, chat=chat)

  class Theirs(api.TemplateLM):
    eot_token_id, prefix_token_id = tokenizer.token_to_id(chat.eos), made.prefix

    def loglikelihood_rolling(self, requests):
      raise NotImplementedError

    generate_until = loglikelihood_rolling

    def tok_encode(self, string, add_special_tokens=None, **kwargs):  # HFLM's
      special = add_special_tokens is None and not string.startswith(chat.bos)
      return tokenizer.encode(string, add_special_tokens=special).ids

    def _loglikelihood_tokens(self, requests, **kwargs):
      return [(tuple(context), tuple(continuation)) for _, context, continuation in requests]

  class Asked:
    def __init__(self, *args):
      self.args = args

  texts = [*PAIRS, ('', 'ab'), ('', '<s>b')]
  assert Theirs().loglikelihood([Asked(*pair) for pair in texts], disable_tqdm=True) == [
    tuple(made.pair(*pair)) for pair in texts
  ]


def test_long_contexts_lose_their_beginning_and_log_likelihoods_are_sums():
  engine = Listed()
  made = answers(engine, room=16)
  long, short = made.pair('x' * 30, 'yz'), made.pair('ab', 'bits')
  assert made.score([long, short]) == [
    (sum(-1.0 - i for i in ids('yz')), all(i % 2 == 0 for i in ids('yz'))),
    (-1.0 - ids('bits')[0], ids('bits')[0] % 2 == 0),
  ]
  ((first, second),) = engine.asked
  assert (
    first == Continuation(ids('x' * 13), ids('yz')) and second == short
  )  # 13 + 2 tokens, and the one that a server must generate
  assert made.cut(Continuation(ids('ab'), ids('y' * 14))).context == ids('b')
  with pytest.raises(HarnessError, match=r'bind vllm.max_model_len to 17 or more, now 16'):
    made.score([Continuation(ids('a'), ids('y' * 15))])


def test_the_weights_are_given_before_the_first_question_and_once():
  begun = []
  made = answers(start=lambda: begun.append(1))
  with pytest.raises(HarnessError):
    made.complete([('a', {'max_gen_toks': 512})])
  assert not begun
  made.score([made.pair('a', 'b')])
  made.score([made.pair('a', 'b')])
  assert begun == [1]


def test_completions_end_before_the_first_of_their_texts():
  engine = Listed('9.60} and more\n', 'no end', 'first.\nsecond}', '<|user|>x', 'x<|user|>y')
  until = {'until': ['}', '\n'], 'max_gen_toks': 20}
  assert answers(engine).complete(
    [('q', until)] * 3 + [('q', {'until': '<|user|>', 'max_gen_toks': 20})] * 2
  ) == ['9.60', 'no end', 'first.', '', 'x']
  (three, sampling), (two, other) = engine.asked
  assert (
    [r.seed for r in three] == [0, 1, 2]
    and [r.seed for r in two] == [3, 4]
    and three[0].prompt == ids('q')
  )
  assert sampling == Sampling(
    temperature=0.0, max_new_tokens=20, stop=('}', '\n')
  ) and other.stop == ('<|user|>',)
  assert answers(Listed('it ends<|eos|>', finish='end')).complete([('', {})]) == ['it ends']


def test_an_end_that_only_the_server_sees_is_refused():
  with pytest.raises(HarnessError, match="read 'no end' here: it has another tokenizer"):
    answers(Listed('no end', finish='stop')).complete([('q', {'until': ['}']})])
  assert answers(Listed('9}', finish='stop')).complete([('q', {'until': ['}']})]) == ['9']
  assert answers(Listed('9<|user|>', finish='stop')).complete([('q', {'until': ['<|user|>']})]) == [
    '9'
  ]


def test_prompts_leave_room_for_what_is_generated():
  engine = Listed('x', 'y')
  answers(engine, room=16).complete([('a' * 30, {'max_gen_toks': 10}), ('', {'max_gen_toks': 10})])
  assert [r.prompt for r in engine.asked[0][0]] == [ids('a' * 6), (BOS,)]


@pytest.mark.parametrize(
  'kwargs, until, sampling',
  [
    ({}, (), Sampling(temperature=0.0, max_new_tokens=256)),
    (
      {'until': 'x', 'max_new_tokens': 3},
      ('x',),
      Sampling(temperature=0.0, max_new_tokens=3, stop=('x',)),
    ),
    (
      {
        'until': ['x', '', 'x'],
        'do_sample': False,
        'temperature': 0.7,
        'top_p': 0.9,
        'max_gen_toks': 3,
        'max_tokens': 4,
      },
      ('x',),
      Sampling(temperature=0.0, max_new_tokens=3, stop=('x',)),
    ),
    (
      {
        'do_sample': True,
        'temperature': 0.7,
        'top_p': 1.0,
        'top_k': -1,
        'num_beams': 1,
        'max_gen_toks': 3,
      },
      (),
      Sampling(temperature=0.7, max_new_tokens=3),
    ),
  ],
)
def test_generation_kwargs(kwargs, until, sampling):
  assert generation(kwargs, 512) == (until, sampling)


@pytest.mark.parametrize(
  'kwargs, said',
  [
    ({'temperature': 0.7, 'top_p': 0.9}, 'generation_kwargs top_p: only until'),
    ({'num_beams': 4}, 'num_beams'),
    ({'repetition_penalty': 1.1}, 'repetition_penalty'),
    ({'do_sample': True}, 'without a temperature'),
    ({'max_gen_toks': 512}, 'vllm.max_model_len = 512 leaves no room'),
  ],
)
def test_generation_kwargs_that_are_not_done_are_refused(kwargs, said):
  with pytest.raises(HarnessError, match=said):
    generation(kwargs, 512)


def test_without_lm_eval_the_error_names_what_installs_it():
  with pytest.raises(HarnessError, match='make harness'):
    harness.run(answers(), ['x'], find_spec=lambda name: None)


# -- with lm_eval ----------------------------------------------------------------------------------


@pytest.fixture
def lm_eval(monkeypatch, tmp_path):
  """Tasks of this directory, with data that lie beside them. What `datasets` keeps stays in the
  test's own directory.
  """
  for name in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE'):
    monkeypatch.setenv(name, '1')
  pytest.importorskip('lm_eval', reason='lm_eval is not installed: make harness')
  rows = [{'q': f'{a} + {b} =', 'a': str(a + b)} for a in range(3) for b in range(2)]
  (tmp_path / 'data.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  common = {
    'dataset_path': 'json',
    'dataset_kwargs': {
      'data_files': {'test': str(tmp_path / 'data.jsonl')},
      'cache_dir': str(tmp_path / 'cache'),
    },
    'test_split': 'test',
    'metadata': {'version': 2},
    'doc_to_text': '{{q}}',
  }
  tasks = {
    'choose': {
      'output_type': 'multiple_choice',
      'doc_to_choice': ['0', '1', '2', '3'],
      'doc_to_target': '{{a}}',
      'metric_list': [{'metric': 'acc'}],
    },
    'say': {
      'output_type': 'generate_until',
      'doc_to_target': '{{a}}',
      'generation_kwargs': {'until': ['.']},
      'metric_list': [{'metric': 'exact_match'}],
    },
    'read': {
      'output_type': 'loglikelihood_rolling',
      'doc_to_text': '',
      'doc_to_target': '{{q}} {{a}}',
      'metric_list': [{'metric': 'word_perplexity'}],
    },
    'hub': {
      'dataset_path': 'nobody/has_this',
      'dataset_kwargs': {},
      'output_type': 'generate_until',
      'doc_to_target': '{{a}}',
    },
  }
  for name, task in tasks.items():
    (tmp_path / f'{name}.yaml').write_text(
      json.dumps(common | {'task': f'aevo_{name}'} | task)
    )  # JSON is YAML
  return str(tmp_path)


def test_results_name_items_metrics_versions_and_hashes(lm_eval):
  engine = Listed(*(f' {k}'[1:] + '. and on' for k in (0, 1, 1, 2, 2, 9)))
  found = harness.run(answers(engine), ['aevo_choose', 'aevo_say'], include_path=lm_eval)
  assert {(task, metric): (value, n) for task, metric, value, _, n in harness.rows(found)} == {
    ('aevo_choose', 'acc'): (1 / 6, 6),
    ('aevo_say', 'exact_match'): (5 / 6, 6),
  }  # the smallest id, which is 0's, always
  report = harness.report(found)
  assert report['versions'] == {'aevo_choose': 2, 'aevo_say': 2} and all(
    len(report['task_hashes'][f'aevo_{name}']) == 64 for name in ('choose', 'say')
  )
  assert (
    report['lm_eval_version']
    and not {'samples', 'pretty_env_info'} & set(report)
    and json.dumps(report)
  )
  limited = harness.run(answers(Listed('0.', '1.')), ['aevo_say'], include_path=lm_eval, limit=2)
  assert harness.rows(limited)[0][2:] == (1.0, 0.0, 2)


def test_whole_texts_are_read_window_by_window_each_token_once(lm_eval):
  engine = Listed()
  found = harness.run(answers(engine, room=8), ['aevo_read'], include_path=lm_eval)
  texts = [sample['arguments'][0][0] for sample in found['samples']['aevo_read']]
  (windows,) = engine.asked
  assert all(w.context and len(w.context) + len(w.tokens) < 8 for w in windows) and windows[
    0
  ].context == (BOS,)
  assert tuple(token for w in windows for token in w.tokens) == tuple(
    i for text in texts for i in ids(text)
  )


def test_questions_and_examples_in_the_base_s_chat_format(lm_eval):
  engine = Listed(*'000000')
  harness.run(answers(engine), ['aevo_say'], include_path=lm_eval, chat=True)
  assert engine.asked[0][0][0].prompt == ids(CHAT.prompt('0 + 0 ='))


def test_tasks_that_cannot_be_run_are_answered_in_words_before_anything_starts(lm_eval, tmp_path):
  made = answers(start=lambda: pytest.fail('it was started'))
  for tasks, path, said in (
    (['aevo_chose'], lm_eval, "no task 'aevo_chose'; did you mean 'aevo_choose'"),
    (['aevo_hub'], lm_eval, 'HF_HUB_OFFLINE=0 and HF_DATASETS_OFFLINE=0'),
    (['aevo_say'], str(tmp_path / 'nowhere'), 'is no directory'),
  ):
    with pytest.raises(HarnessError, match=said):
      harness.run(made, tasks, include_path=path)
