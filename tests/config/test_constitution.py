"""The constitution: literals only, one canonical text, nothing in it that an agent may bind."""

import dataclasses

import pytest

from aevo_jax import layout
from aevo_jax.config import constitution as lib
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.config.statements import StatementError, parse_statements

FILE = layout.root_file('constitution.gin')


def shipped(*bindings: str) -> lib.Constitution:
  loading.load([str(FILE)], bindings, search_paths=layout.search_paths())
  return lib.from_gin()


def test_the_shipped_file_is_literals_and_every_value_in_it_counts():
  lib.check_literal_only(FILE.read_text())
  constitution = shipped()
  for binding in parse_statements(FILE.read_text(), max_bytes=lib.MAX_BYTES):
    section, _, field = binding.selector.rpartition('.')
    value = getattr(getattr(constitution, section), field)
    assert value == binding.value, binding.selector


@pytest.mark.parametrize(
  'text',
  [
    'import os',
    "include 'x.gin'",
    'budget.rounds = %N',
    'budget.rounds = @f()',
    'a/budget.rounds = 2',
    'budget.rounds = 2\nbudget.rounds = 3',
  ],
)
def test_anything_but_literals_is_refused(text, tmp_path):
  with pytest.raises(StatementError):
    lib.check_literal_only(text)
  (tmp_path / 'c.gin').write_text(text)
  with pytest.raises(StatementError):
    lib.read(tmp_path / 'c.gin')


def test_rendered_text_reads_back_as_the_same_constitution(tmp_path):
  constitution = shipped('budget.rounds = 7').committed('ab' * 32)
  (tmp_path / 'c.gin').write_text(constitution.text())
  again = lib.read(tmp_path / 'c.gin')
  assert (
    again == constitution
    and again.text() == constitution.text()
    and again.digest() == constitution.digest()
  )
  assert again.budget.rounds == 7 and again.holdout.commitment == 'ab' * 32


# 'proxies' needs a probe: the next test; these need each other; and the carrier that alone reads
# rank and slots does not go with a constitution.
OTHERWISE = (
  ('objective', 'target'),
  ('vllm', 'url'),
  ('evaluation', 'arbiter_url'),
  ('vllm', 'carrier'),
  ('vllm', 'transfer_address'),
  ('vllm', 'lora_rank'),
  ('vllm', 'lora_slots'),
)


def another_value(field: str, old):
  if field == 'from_round':
    return {'batch': 2}
  if isinstance(old, bool):
    return not old
  if old is None:
    return 0.5
  if isinstance(old, str):
    replacements = {
      'strict': 'challenge',
      'e_process': 'exact',
      'jax': 'vllm',
      'float32': 'bfloat16',
    }
    return replacements.get(old, f'http://{old}x')
  if isinstance(old, int):
    return old - 1 if field == 'retries' else old + 1
  if isinstance(old, float):
    return old + 1e-3
  if isinstance(old, dict):
    return {**old, 'bit_manipulation': 0.5}
  return (*old, 'Q: {prompt}')


def test_the_digest_sees_every_field(tmp_path):
  served = shipped("evaluation.engine = 'vllm'")  # without which nothing reads vllm.*
  digests = {shipped().digest()}
  for section in lib.owned_names():
    constitution = served if section == 'vllm' else shipped()
    value = getattr(constitution, section)
    for field in dataclasses.fields(value):
      old = getattr(value, field.name)
      if (section, field.name) in OTHERWISE:
        continue
      moved = another_value(field.name, old)
      digests.add(
        dataclasses.replace(
          constitution, **{section: dataclasses.replace(value, **{field.name: moved})}
        ).digest()
      )
  for several in (
    {'vllm': {'carrier': 'nccl'}},
    {'vllm': {'carrier': 'nccl', 'transfer_address': '10.0.0.1'}},
    {'vllm': {'url': 'unix:/a'}, 'evaluation': {'arbiter_url': 'unix:/b'}},
    {'vllm': {'url': 'unix:/a'}, 'evaluation': {'arbiter_url': 'unix:/c'}},
  ):
    digests.add(
      dataclasses.replace(
        served,
        **{
          section: dataclasses.replace(getattr(served, section), **fields)
          for section, fields in several.items()
        },
      ).digest()
    )
  assert len(digests) == 1 + 4 + sum(
    len(dataclasses.fields(getattr(served, s))) for s in lib.owned_names()
  ) - len(OTHERWISE)


def test_the_digest_sees_the_target():
  with_probes = shipped('probes.rules = 9')
  assert (
    with_probes.digest()
    != shipped('probes.rules = 9', "objective.target = 'proxies'").digest()
    != shipped().digest()
  )


def test_axes_open_in_their_round():
  constitution = dataclasses.replace(
    shipped(), search_space=dataclasses.replace(shipped().search_space, from_round={'batch': 3})
  )

  def names(round_: int) -> set[str]:
    return {axis.name for axis in constitution.in_round(round_).space().axes}

  assert names(2) == names(3) - {'batch'} and names(3) == names(-1) == {
    axis.name for axis in constitution.space().axes
  }
  with pytest.raises(ValueError, match="names no axis 'bach'"):
    dataclasses.replace(constitution.search_space, from_round={'bach': 3})


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('budget.round = 3', "did you mean 'budget.rounds'"),
    ('optimizer.learning_rate = 1.0', 'has no optimizer.learning_rate'),
    ("budget.rounds = 'three'", 'expects int'),
    ('budget.rounds = True', 'expects int'),
  ],
)
def test_misspelt_and_mistyped_bindings_are_named(text, message, tmp_path):
  (tmp_path / 'c.gin').write_text(text)
  with pytest.raises(loading.LoadError, match=message):
    lib.read(tmp_path / 'c.gin')


@pytest.mark.parametrize(
  'binding',
  [
    "objective.target = 'dev'",
    'dev_set.items = 0',
    'budget.rounds = 0',
    'budget.workers = 0',
    'budget.noise_seeds = 1',
    'budget.wall_clock_s = -1.0',
    'submission.max_rank = -1',
    'keep_or_discard.screen = 1.0',
    'budget.final_seeds = 0',
    'budget.retries = -1',
    'promotion.confidence = 1.0',
    'promotion.confidence = 0.2',
    'release.per_round = 0',
    'reversal.alpha = 0.0',
    'reversal.calibration_rounds = 0',
    'reversal.transfer = 0.0',
    'control.workers = -1',
    'control.alpha = 1.0',
  ],
)
def test_values_without_sense_are_refused_by_name(binding):
  field = binding.split(' = ')[0].split('.')[1]
  with pytest.raises(loading.LoadError, match=field):
    shipped(binding)


def test_a_malformed_space_is_an_error_at_the_start():
  with pytest.raises(ValueError, match='axis x'):
    shipped("search_space.axes = {'x': {'optimizer.learning_rate': {'kind': 'flaot'}}}")


def test_no_agent_may_bind_what_the_constitution_owns():
  constitution = shipped()
  owned = [s for s in constitution.space().selectors if s.rpartition('.')[0] in lib.owned_names()]
  assert owned == []
  names = [
    f'{section}.{field.name}'
    for section in lib.owned_names()
    for field in dataclasses.fields(getattr(constitution, section))
  ]
  bindings = parse_statements(
    '\n'.join(f'{name} = 1' for name in names) + '\noptimizer.b1 = 0.9', max_bytes=lib.MAX_BYTES
  )
  assert sorted(lib.foreign(bindings)) == sorted(names)


def test_each_configurable_resolves_to_its_section():
  constitution = shipped()
  for name in lib.owned_names():
    assert resolve(name) == getattr(constitution, name)
