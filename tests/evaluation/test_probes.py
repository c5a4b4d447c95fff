"""The probes: whose items they ask, what they refuse, and that their summaries are what a count by
hand says.
"""

import dataclasses
import functools
import itertools

import pytest

from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.loading import LoadError
from aevo_jax.evaluation import probes, sets
from aevo_jax.evaluation.probes import Probe
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.own_data import OwnTasks
from aevo_jax.tasks.splits import public_split

BASIC = (
  'dev_set.items = 80',
  'probes.seed = 5',
  'probes.rules = 60',
  'probes.families = 20',
  'probes.order = 40',
  'probes.samples = 10',
  "dev_set.family_weight = {'numeral_conversion': 0.0}",
)
SECRET = bytes(range(32))


def constitution(*bindings: str) -> constitution_lib.Constitution:
  last = {b.partition('=')[0].strip(): b for b in bindings}
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    list(last.values()),
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


@functools.cache
def built() -> tuple[constitution_lib.Constitution, dict[str, Probe]]:
  rules = constitution(*BASIC)
  return rules, probes.build(rules)


def test_each_asks_what_it_says():
  rules, made = built()
  dev = sets.dev_items(rules)
  assert {name: len(p.items) for name, p in made.items()} == {
    'rules': 60,
    'families': 20,
    'order': 40,
    'samples': 10,
  }
  assert {i.family for i in made['families'].items} == {'numeral_conversion'} and not {
    i.family for i in dev
  } & {'numeral_conversion'}

  def kinds(items):
    return {i.kind for i in items if i.family == 'bit_manipulation'}

  assert 'nonlinear' in kinds(made['rules'].items) and kinds(dev) == {'affine'}
  assert [i.key for i in made['order'].items] == [i.key for i in dev[:40]] and not {
    i.question for i in made['order'].items
  } & {i.question for i in dev}
  assert list(made['samples'].items) == dev[:10]
  assert len({seed for seeds in made['samples'].seeds for seed in seeds}) == 10 * rules.probes.draws
  assert probes.build(rules)['order'].items == made['order'].items


def test_no_rule_of_a_probe_is_trained_on_or_in_the_final():
  rules, made = built()
  assert {public_split(i.key) for i in made['rules'].items} == {'private'} and {
    public_split(i.key) for i in made['families'].items
  } == {'dev'}
  alone = dataclasses.replace(
    rules,
    objective=dataclasses.replace(rules.objective, target='proxies'),
    final_set=constitution_lib.FinalSet(items=150),
  )
  final = sets.private_items(alone, 'final', SECRET)
  many = dataclasses.replace(alone, probes=dataclasses.replace(alone.probes, rules=300))
  assert not {i.key for i in final} & {i.key for i in probes.build(many)['rules'].items}
  assert {public_split(i.key) for i in final} == {'private'}
  ordinary = dataclasses.replace(
    alone, objective=rules.objective
  )  # the control: with an external target the final is drawn as ever
  assert sets.private_items(ordinary, 'final', SECRET) != final


@pytest.mark.parametrize(
  ('bindings', 'said'),
  [
    (('dev_set.family_weight = {}',), 'dev has them all'),
    (('probes.paraphrase = 5',), 'micro puzzles have one wording'),
    (('probes.options = 5',), 'multiple choice'),
    (('probes.order = 81',), 'dev_set.items is 80'),
    (("probes.templates = ('Say: {prompt}',)", 'probes.paraphrase = 5'), 'second wording is given'),
  ],
)
def test_what_does_not_exist_is_refused(bindings, said):
  with pytest.raises(probes.ProbeError, match=said):
    probes.build(constitution(*BASIC, *bindings))


@pytest.mark.parametrize(
  'binding',
  [
    'probes.rules = -1',
    'probes.k = 9',
    'probes.temperature = 0.0',
    "probes.templates = ('no place',)",
  ],
)
def test_senseless_values_are_refused_by_name(binding):
  with pytest.raises(LoadError, match=binding.split(' =')[0].split('.')[1]):
    constitution(binding)


def test_without_a_probe_there_is_no_target_of_proxies():
  with pytest.raises(LoadError, match='needs something beside dev'):
    constitution("objective.target = 'proxies'")


def test_a_constitution_without_probes_keeps_its_text():
  assert 'probes.' not in constitution().text() and 'probes.rules = 60' in built()[0].text()


def test_standard_puzzles_are_paraphrased():
  made = probes.build(
    constitution(
      'dev_set.items = 12',
      'probes.paraphrase = 12',
      "objective.size = 'standard'",
      "dev_set.rare_share = {'equation_transformation': 0.0}",
    )
  )
  items, dev = (
    made['paraphrase'].items,
    sets.dev_items(
      constitution(
        'dev_set.items = 12',
        "objective.size = 'standard'",
        "dev_set.rare_share = {'equation_transformation': 0.0}",
      )
    ),
  )
  assert [(i.key, i.answer) for i in items] == [(i.key, i.answer) for i in dev] and not {
    i.question for i in items
  } & {i.question for i in dev}


# -- tasks of one's own ----------------------------------------------------------------------------


def own_tasks() -> OwnTasks:
  made = []
  for i in range(300):
    family = ('colours', 'sizes')[i % 2]
    made.append(
      Item(
        family,
        'given',
        '',
        f'own|{i}',
        f'Question {i}?\nA) x{i}\nB) y{i}\nC) z{i}',
        'ABC'[i % 3],
        '',
        '',
        '',
      )
    )
  return OwnTasks(tuple(made), tuple(f'f:{i}' for i in range(300)))


OWN = (
  "tasks.path = 'mine.jsonl'",
  "objective.verifier = 'choice'",
  'dev_set.items = 20',
  'dev_set.rare_share = {}',
)


def test_own_multiple_choice_has_options_samples_and_paraphrases_by_template():
  rules, own = (
    constitution(
      *OWN,
      'probes.options = 10',
      'probes.samples = 6',
      'probes.paraphrase = 4',
      "probes.templates = ('Choose. {prompt}', '{prompt} Say a letter.')",
    ),
    own_tasks(),
  )
  made, dev = probes.build(rules, own), sets.dev_items(rules, own)
  assert [made['paraphrase'].items[i].question for i in (0, 1)] == [
    f'Choose. {dev[0].question}',
    f'{dev[5].question} Say a letter.',
  ]
  assert {i.family for i in made['options'].items} == {'colours', 'sizes'}
  right = [[item.answer.lower()] for item in made['options'].items]
  said = probes.summary(made['options'], right, [item.answer for item in dev], rules)
  assert (
    said['overall']['accuracy'] == 1.0 and said['same'] == 1.0
  )  # the same option under another letter
  stubborn = probes.summary(made['options'], [['A']] * 10, ['A'] * 20, rules)
  kept = sum(before['A'] == 'A' for before in made['options'].before)
  assert stubborn['same'] == kept / 10 < 1.0


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('probes.rules = 5', 'probes.rules is of the puzzles'),
    ('probes.order = 5', 'probes.order is of the puzzles'),
    ('probes.families = 5', 'probes.families is of the puzzles'),
    ('probes.paraphrase = 5', 'give probes.templates some'),
  ],
)
def test_own_tasks_have_no_rules_examples_or_kinds(binding, said):
  with pytest.raises(probes.ProbeError, match=said):
    probes.build(constitution(*OWN, binding), own_tasks())


# -- summaries -------------------------------------------------------------------------------------


def test_a_summary_by_hand():
  rules, made = built()
  probe = made['order']
  dev_answers = [item.answer for item in sets.dev_items(rules)]
  answers = [[item.answer if i % 4 else 'wrong'] for i, item in enumerate(probe.items)]
  said = probes.summary(probe, answers, dev_answers, rules)
  assert (
    said['overall']['accuracy'] == 0.75
    and said['overall']['total'] == 40
    and said['same'] == 0.75
    and said['completions'] == 40
  )
  assert said['overall']['variance'] == pytest.approx((40 * 0.75 * 0.25 + 0.25) / 40**2, abs=1e-9)
  for family, items in itertools.groupby(
    sorted(enumerate(probe.items), key=lambda pair: pair[1].family), key=lambda pair: pair[1].family
  ):
    indices = [i for i, _ in items]
    assert said['by_family'][family]['accuracy'] == pytest.approx(
      sum(i % 4 > 0 for i in indices) / len(indices), abs=1e-6
    )
  assert (
    probes.summary(probe, [['same']] * 40, ['same'] * 80, rules)['same'] == 1.0
  )  # consistent and wrong
  assert (
    probes.summary(probe, [[None]] * 40, [None] * 80, rules)['same'] == 0.0
  )  # no answer is none


def test_samples_score_pass_at_k():
  rules, made = built()
  probe = made['samples']  # 4 draws, k = 2
  answers = [
    [item.answer] * (i % 5) + ['wrong'] * (4 - i % 5) for i, item in enumerate(probe.items)
  ]
  by_right = {0: 0.0, 1: 3 / 6, 2: 5 / 6, 3: 1.0, 4: 1.0}  # of the 6 pairs of 4 draws
  said = probes.summary(probe, answers, [], rules)
  assert (
    said['overall']['accuracy']
    == pytest.approx(sum(by_right[i % 5] for i in range(10)) / 10, abs=1e-6)
    and said['same'] is None
    and said['completions'] == 40
  )
