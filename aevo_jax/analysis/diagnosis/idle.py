"""Devices that do others' work again, and parameters that lie whole on all: by rules alone."""

from aevo_jax.analysis.diagnosis.expected import Asked
from aevo_jax.analysis.diagnosis.finding import Finding

# A mesh axis without tokens of its own should cut at least so much of the products with weights.
_SHARE = 0.5
# A parameter that lies whole is named from this share of all parameters on.
_LARGE = 0.02
# Heads of these dimensions belong together.
_HEADS = {
  'heads': 'num_attention_heads',
  'kv_heads': 'num_key_value_heads',
  'mamba_inner': 'mamba_num_heads',
  'mamba_heads': 'mamba_num_heads',
}


def idle(asked: Asked) -> list[Finding]:
  """Finds what rules leave undone.

  Args:
    asked: the model under the rules.

  Returns:
    Mesh axes whose devices do the same work, large parameters that lie whole, and heads that are
    cut into pieces.
  """
  return [*_idle_axes(asked), *_whole_parameters(asked), *_split_heads(asked)]


def _idle_axes(asked: Asked) -> list[Finding]:
  found = []
  layout = asked.layout
  for axis, size in layout.sizes:
    if size == 1 or axis in asked.token_axes:
      continue
    batch = (*layout.mesh_axes('batch'), axis)
    fix = f"cut rows along it: sharding.rules['batch'] = {batch[0] if len(batch) == 1 else batch!r}"
    rules = asked.rules_with([axis])
    if not rules:
      found.append(
        Finding(
          kind='idle mesh axis',
          array=f'mesh axis {axis!r}',
          detail=f'is in no rule, so that each of its {size} devices does the same work',
          fix=fix,
          rules=('batch',),
        )
      )
      continue
    share = _share(asked, axis)
    if share < _SHARE:
      found.append(
        Finding(
          kind='work done again',
          array=f'mesh axis {axis!r}',
          detail=f'cuts no rows and {share:.0%} of the products, so that its {size} devices do the'
          ' same work elsewhere',
          fix=fix,
          rules=('batch', *(name for name in rules if name != 'batch')),
        )
      )
  return found


def _share(asked: Asked, axis: str) -> float:
  """Returns the share of all products with weights that an axis cuts, but for along the stream."""
  cut = 0.0
  total = 0.0
  for name, logical in asked.axes.items():
    if len([one for one in logical if one != 'layers']) < 2:
      continue
    if name == 'embedding' and not asked.config.tie_word_embeddings:
      continue
    size = asked.elements(name)
    if 'experts' in logical and logical[-1] != 'experts':
      size *= asked.config.num_experts_per_tok / asked.config.n_routed_experts
    total += size
    if any(one != 'embed' and axis in asked.layout.mesh_axes(one) for one in logical):
      cut += size
  return cut / total


def _whole_parameters(asked: Asked) -> list[Finding]:
  """Names parameters that lie whole on every device while others are cut."""
  all_elements = sum(asked.elements(name) for name in asked.shapes)
  found = []
  if not any(asked.parameter_axes(name) for name in asked.shapes):
    return found  # every device has a copy, as in data parallelism
  for name in asked.shapes:
    share = asked.elements(name) / all_elements
    if asked.layout.shards(*asked.axes[name]) > 1 or share < _LARGE:
      continue
    logical = tuple(one for one in asked.axes[name] if one != 'layers')
    axes = tuple(axis for axis, size in asked.layout.sizes if size > 1)
    fit = [one for one in logical if _divides(asked, name, one, axes)]
    if not fit:
      continue
    found.append(
      Finding(
        kind='parameter whole',
        array=name,
        detail=f'({share:.0%} of all parameters) lies whole on each of {asked.layout.devices}'
        ' devices',
        fix=f'sharding.rules[{fit[0]!r}] = {axes[0] if len(axes) == 1 else axes!r}',
        rules=tuple(fit),
      )
    )
  return found


def _divides(asked: Asked, name: str, logical: str, axes: tuple[str, ...]) -> bool:
  sizes = dict(asked.layout.sizes)
  parts = 1
  for axis in axes:
    parts *= sizes[axis]
  return asked.shapes[name].shape[asked.axes[name].index(logical)] % parts == 0


def _split_heads(asked: Asked) -> list[Finding]:
  """Names rules that cut heads into pieces, on devices that have the same tokens."""
  found = []
  sizes = dict(asked.layout.sizes)
  for logical, field in _HEADS.items():
    parts = 1
    axes = [a for a in asked.layout.mesh_axes(logical) if a not in asked.token_axes]
    for axis in axes:
      parts *= sizes[axis]
    heads = getattr(asked.config, field)
    names = [name for name, of in asked.axes.items() if logical in of]
    if not names or heads % parts == 0:
      continue
    largest = max(names, key=asked.elements)
    found.append(
      Finding(
        kind='heads in pieces',
        array=largest,
        detail=f'has {heads} heads, which the rule of {logical!r} cuts into {parts} parts:'
        ' pieces of heads are sent around',
        fix=f'take {logical!r} out of sharding.rules, or cut it into a divisor of {heads}',
        rules=(logical,),
      )
    )
  return found
