"""Collectives of a partitioned step that the rules do not ask for, by parameter or activation."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import jax

from aevo_jax.analysis.collectives import Collective, collective_of
from aevo_jax.analysis.diagnosis.dataflow import Dataflow, Product, Value
from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.finding import Finding, place
from aevo_jax.analysis.hlo import Location, Module
from aevo_jax.training.train_state import TrainState

_TOLERANCE = 1.05
_LAYER = re.compile(r'layers\.\d+')
_REDUCED = ('all-reduce', 'reduce-scatter')


@dataclasses.dataclass(frozen=True)
class _Sent:
  """A collective with what its operand is.

  Attributes:
    value: its result.
    collective: kind, axes, bytes and times.
    stack: the places that made it.
  """

  value: Value
  collective: Collective
  stack: tuple[Location, ...]

  @property
  def axes(self) -> tuple[str, ...]:
    return self.collective.axes

  @property
  def size(self) -> int:
    """Bytes of its results in a step."""
    return self.collective.times * self.collective.result_bytes


@dataclasses.dataclass(frozen=True)
class _Step:
  """A partitioned step and what it was asked for."""

  flow: Dataflow
  asked: Asked
  sent: list[_Sent]

  def operand(self, sent: _Sent) -> Value:
    return self.flow.operands(sent.value)[0]

  def elements(self, sent: _Sent) -> int:
    """Counts what a collective gives in a step."""
    return sent.collective.times * self.flow.size(sent.value)

  def stack(self, sent: _Sent) -> tuple[Location, ...]:
    """Returns where a collective was made, or where what it gives is used first."""
    value = sent.value
    stack = sent.stack
    for _ in range(8):
      users = self.flow.users(value)
      if stack or not users:
        break
      value = users[0]
      stack = self.flow.module.stack(self.flow.instruction(value))
    return stack


def unexpected(
  module: Module, mesh: Mapping[str, int], asked: Asked, state: TrainState
) -> list[Finding]:
  """Finds what devices send though no rule asks for it.

  Args:
    module: the program right after partitioning.
    mesh: {axis: size}, in the mesh's order.
    asked: the model under the rules.
    state: of the training, shapes; the program's first results.

  Returns:
    What was found, the most bytes first; each array and place once.
  """
  flow = Dataflow(module)
  sent = []
  for executed in module.executed():
    collective = collective_of(executed, module, mesh)
    if collective is not None:
      value = Value(executed.computation, executed.instruction.name)
      sent.append(_Sent(value, collective, module.stack(executed.instruction)))
  step = _Step(flow, asked, sent)
  gradients = _gradients(step, state)
  weights: dict[str, list[_Sent]] = {}
  reduced: dict[str, list[_Sent]] = {}
  found = []
  for one in sent:
    operand = step.operand(one)
    weight = flow.weight(operand)
    origins = flow.origins(operand)
    if weight:
      weights.setdefault(weight, []).append(one)
    elif one.value in gradients:
      reduced.setdefault(gradients[one.value], []).append(one)
    elif any(argument.is_data for argument in origins):
      found += _of_activation(step, one)
  for name, gathers in weights.items():
    found += _of_weight(step, name, gathers)
  for name, sums in reduced.items():
    found += _of_gradient(step, name, sums)
  return _merged(found, asked.small)


def _gradients(step: _Step, state: TrainState) -> dict[Value, str]:
  """Returns the collectives through which gradients reach the next state, by their parameter."""
  flow = step.flow
  collectives = {one.value for one in step.sent}
  found: dict[Value, str] = {}
  leaves = jax.tree_util.tree_leaves_with_path(state)
  for (path, _), result in zip(leaves, flow.results(), strict=False):
    name = _parameter(path, step.asked)
    if not name:
      continue
    for value in flow.elementwise(result):
      if value in collectives and not flow.weight(value):
        found.setdefault(value, name)
  return found


def _parameter(path: Sequence, asked: Asked) -> str:
  """Returns the parameter under whose name a leaf of the state stands, or ''."""
  for key in reversed(path):
    if isinstance(key, jax.tree_util.DictKey) and key.key in asked.shapes:
      return key.key
  return ''


def _of_weight(step: _Step, name: str, gathers: list[_Sent]) -> list[Finding]:
  """Judges what is sent of a parameter."""
  asked = step.asked
  found = []
  last = _last_of_chains(step, gathers)
  for one in last:
    # Beside its own mesh axes a partitioner may cut a weight and gather it again: as it likes.
    own = asked.parameter_axes(name)
    stray = [a for a in one.axes if a in own and a not in asked.token_axes]
    if stray:
      rules = asked.rules_with(stray, asked.axes[name])
      found.append(
        Finding(
          kind='weight gathered',
          array=name,
          detail=f'is gathered along {_names(stray)}, along which devices have the same tokens',
          fix=_cut_tokens_or_drop(asked, stray, rules),
          rules=rules,
          size=one.size,
          source=place(step.stack(one)),
          op_name=one.collective.op_name,
        )
      )
  whole = [one for one in last if one.collective.kind == 'all-gather']
  count = sum(step.elements(one) for one in whole) / asked.kept_elements(name)
  most = asked.gathers(name)
  excess = (count - most) / count * sum(one.size for one in whole) if count else 0
  if count > most * _TOLERANCE and excess > asked.small and not found:
    worst = max(whole, key=lambda one: one.collective.times)
    found.append(
      Finding(
        kind='weight gathered too often',
        array=name,
        detail=f'is gathered {count:.3g} times a step; its products ask for {most}',
        fix='lay it out once for all its uses (context.gather_weight before the loop or the uses)',
        rules=asked.rules_with(worst.axes, asked.axes[name]),
        size=int(excess),
        source=place(step.stack(worst)),
        op_name=worst.collective.op_name,
      )
    )
  return found


def _last_of_chains(step: _Step, gathers: list[_Sent]) -> list[_Sent]:
  """Leaves out gathers whose result another gather of the same parameter takes."""
  values = {one.value for one in gathers}
  taken = set()
  for one in gathers:
    for value in step.flow.copied(step.operand(one)):
      if value in values:
        taken.add(value)
  return [one for one in gathers if one.value not in taken]


def _of_gradient(step: _Step, name: str, sums: list[_Sent]) -> list[Finding]:
  """Judges what is sent of a parameter's gradient."""
  asked = step.asked
  found = []
  by_axis: dict[str, float] = {}
  kept = asked.kept_elements(name)
  features = asked.feature_axes([name])
  for one in sums:
    if one.collective.kind in _REDUCED:
      for axis in one.axes:
        by_axis[axis] = by_axis.get(axis, 0.0) + step.elements(one) / kept
    is_gathered = one.collective.kind in ('all-gather', 'all-to-all')
    if is_gathered and not set(one.axes) <= features and len(asked.axes[name]) > 1:
      rules = asked.rules_with(one.axes, asked.axes[name])
      found.append(
        Finding(
          kind='gradient gathered',
          array=name,
          detail=f'has a gradient that is sent whole along {_names(one.axes)}',
          fix=_same_as_parameter(asked, name, one.axes),
          rules=rules,
          size=one.size,
          source=place(step.stack(one)),
          op_name=one.collective.op_name,
        )
      )
  times = max(by_axis.values(), default=0.0)
  most = asked.uses(name)
  size = max((one.size for one in sums), default=0)
  if times > most * _TOLERANCE and size * (times - most) / times > asked.small:
    worst = max(sums, key=lambda one: one.size)
    found.append(
      Finding(
        kind='gradient reduced too often',
        array=name,
        detail=f'has a gradient that is summed over devices {times:.3g} times a step, not {most}',
        fix='sum on each device first, and over devices behind the loop',
        rules=asked.rules_with(worst.axes, (*asked.axes[name], 'batch', 'length')),
        size=int(size * (times - most) / times),
        source=place(step.stack(worst)),
        op_name=worst.collective.op_name,
      )
    )
  return found


def _of_activation(step: _Step, one: _Sent) -> list[Finding]:
  """Judges what is sent of activations."""
  asked = step.asked
  flow = step.flow
  kind = one.collective.kind
  axes = set(one.axes)
  file = one.stack[0].file if one.stack else ''
  if axes <= asked.exchange_axes(one.collective.op_name, file):
    return []
  products = flow.products(step.operand(one))
  names = [product.parameter for product in products]
  if not axes & set(asked.token_axes) and kind in _REDUCED and axes <= asked.feature_axes(names):
    return _thin(step, one, products)
  meets_heads = axes <= asked.heads_axes and not asked.layout.mesh_axes('kv_heads')
  if '*' in asked.config.pattern and meets_heads and flow.size(one.value) <= asked.key_elements:
    return []  # keys and values that lie whole meet the queries of some heads
  if axes <= set(asked.layout.mesh_axes('length')) and _is_context(step, one, products):
    return []
  array = _name(asked, products)
  among = ['batch', 'length']
  for product in products:
    among.append(asked.made(product.parameter, forward=product.is_forward))
    among.append(asked.summed(product.parameter, forward=product.is_forward))
  rules = asked.rules_with(axes, among)
  verb = {'all-gather': 'gathered', 'all-reduce': 'summed', 'reduce-scatter': 'summed'}
  return [
    Finding(
      kind=f'activation {verb.get(kind, "moved")}',
      array=array,
      detail=f'is {verb.get(kind, "moved")} along {_names(one.axes)}',
      fix=_fix_of_activation(asked, one, products, rules),
      rules=rules,
      size=one.size,
      source=place(step.stack(one)),
      op_name=one.collective.op_name,
    )
  ]


def _is_context(step: _Step, one: _Sent, products: list[Product]) -> bool:
  """Tells whether an array is what context parallelism sends: keys, values, states, or halos."""
  asked = step.asked
  elements = step.flow.size(one.value)
  pattern = asked.config.pattern
  if 'M' in pattern and elements <= asked.state_elements:
    made = {asked.made(p.parameter, forward=p.is_forward) for p in products}
    if made <= {'mamba_inner', 'lora_rank'}:
      return True
  if '*' not in pattern or elements > asked.key_elements:
    return False
  if one.collective.kind in _REDUCED:  # the gradients of keys and values
    return True
  made = {asked.made(p.parameter, forward=p.is_forward) for p in products if p.is_forward}
  return not products or made == {'kv_heads'}


def _thin(step: _Step, one: _Sent, products: list[Product]) -> list[Finding]:
  """Judges a sum that a rule asks for, by what it spares."""
  asked = step.asked
  found = []
  for product in products:
    logical = asked.summed(product.parameter, forward=product.is_forward)
    cut = set(asked.layout.mesh_axes(logical)) & set(one.axes)
    if cut and asked.is_thin(product.parameter, logical):
      found.append(
        Finding(
          kind='sum over little',
          array=product.parameter,
          detail=f'is cut along {logical!r} by {_names(cut)}, so that its products are summed over'
          ' devices for a few numbers each',
          fix=_without(asked, logical, cut),
          rules=(logical,),
          size=one.size,
          source=place(step.stack(one)),
          op_name=one.collective.op_name,
        )
      )
  return found


def _name(asked: Asked, products: list[Product]) -> str:
  """Names an activation by the products that it is made of."""
  if not products:
    return 'an array of the batch'
  said = []
  for product in products[:3]:
    side = 'the output of' if product.is_forward else 'the gradient before'
    said.append(f'{side} {product.parameter}')
  return ' with '.join(said)


def _fix_of_activation(
  asked: Asked, one: _Sent, products: list[Product], rules: tuple[str, ...]
) -> str:
  axes = set(one.axes)
  tokens = axes & set(asked.token_axes)
  if tokens:
    cut = [name for name in ('batch', 'length') if set(asked.layout.mesh_axes(name)) & tokens]
    where = ' and '.join(repr(name) for name in cut)
    return f"keep it cut as the rule of {where} says: context.constrain(x, 'batch', 'length', ...)"
  if not rules:
    return f'give {_names(axes)} to a rule'
  embed = [name for name in rules if name == 'embed']
  if embed or not asked.feature_axes(p.parameter for p in products) & axes:
    return _cut_tokens_or_drop(asked, axes, rules)
  return (
    f'{_without(asked, rules[0], axes)}, or keep the array cut along it where it is made and used'
  )


def _cut_tokens_or_drop(asked: Asked, axes: Iterable[str], rules: tuple[str, ...]) -> str:
  batch = asked.layout.mesh_axes('batch')
  wider = tuple(dict.fromkeys((*batch, *axes)))
  said = f"cut rows along it too: sharding.rules['batch'] = {_value(wider)}"
  if rules:
    said += f', or {_without(asked, rules[0], axes)}'
  return said


def _without(asked: Asked, logical: str, axes: Iterable[str]) -> str:
  left = tuple(axis for axis in asked.layout.mesh_axes(logical) if axis not in set(axes))
  if not left:
    return f'take {logical!r} out of sharding.rules'
  return f'sharding.rules[{logical!r}] = {_value(left)}'


def _same_as_parameter(asked: Asked, name: str, axes: Iterable[str]) -> str:
  return (
    f'lay gradients out as parameters (context.constrain_parameters), or give '
    f'{asked.axes[name][-1]!r} the rule {_value(tuple(axes))}'
  )


def _value(axes: tuple[str, ...]) -> str:
  return repr(axes[0] if len(axes) == 1 else axes)


def _names(axes: Iterable[str]) -> str:
  return ' and '.join(repr(axis) for axis in sorted(axes))


def _merged(found: list[Finding], small: float) -> list[Finding]:
  """Adds up what is alike in all layers; leaves out what is small in all."""
  merged: dict[tuple, list[Finding]] = {}
  for one in found:
    key = (one.kind, _LAYER.sub('layers.*', one.array), one.detail, one.source)
    merged.setdefault(key, []).append(one)
  large = []
  for group in merged.values():
    size = sum(one.size for one in group)
    arrays = dict.fromkeys(one.array for one in group)
    array = group[0].array
    if len(arrays) > 1:
      array += f' and {len(arrays) - 1} like it'
    if size > small:
      large.append(dataclasses.replace(group[0], array=array, size=size))
  return sorted(large, key=lambda one: -one.size)
