"""What the campaigns of planted_decoupling.py showed, in Markdown."""

import functools
from collections.abc import Sequence

import numpy as np

from aevo_jax.stats.comparisons.permutation import sign_flip_p
from aevo_jax.stats.intervals import wilson

PILOTS = 100  # seeds from here on were run while the study was set up, and count for nothing
HEAD = (
  '| campaign | family | sign | onset | alarms (round, stream, verdict) | turned for '
  'round | revised - control (external) | p |'
)


def central(chances: Sequence[float]) -> tuple[int, int]:
  """The central 95% of how many independent events of these chances happen."""
  number = functools.reduce(np.convolve, ([1 - p, p] for p in chances), np.ones(1)).cumsum()
  return int(np.searchsorted(number, 0.025)), int(np.searchsorted(number, 0.975))


def detected(result: dict) -> bool:
  """Whether, once the flaw could be bound, an alarm came and the family's objective changed.

  The alarm calls its family, or dev as a whole, reversed or decoupled, as `aevo simulate` counts.
  """
  family = result['plant']['family']
  onset = result['plant']['onset']
  return (
    any(a['stream'] in (family, 'overall') and a['round'] >= onset for a in result['alarms'])
    and result['turned'].get(family, 0) > onset
  )


def false_alarms(result: dict) -> list[dict]:
  """Alarms that are wrong.

  Any is in a null campaign; in a planted one those before the onset, and those of other families.
  """
  if result['kind'] == 'null':
    return result['alarms']
  return [
    a
    for a in result['alarms']
    if a['round'] < result['plant']['onset']
    or a['stream'] not in (result['plant']['family'], 'overall')
  ]


def table(results: dict[str, dict]) -> str:
  """All campaigns, a row each, and totals of each kind."""
  lines = [HEAD, '|---|---|---|---|---|---|---|---|']
  for name, result in sorted(results.items(), key=lambda item: (item[1]['kind'], item[1]['seed'])):
    lines.append(_row(name, result))
  for kind in ('planted', 'null'):
    found = [r for r in results.values() if r['kind'] == kind and r['seed'] < PILOTS]
    if found:
      lines += _totals(kind, found)
  return '\n'.join(lines)


def _row(name: str, result: dict) -> str:
  plant = result['plant']
  alarms = ', '.join(f'{a["round"]} {a["stream"]} {a["verdict"]}' for a in result['alarms'])
  family = sign = '-'
  if result['kind'] == 'planted':
    family = plant['family']
    sign = plant['sign']
  effect = '- | - |'
  if result['attributions']:
    last = result['attributions'][max(result['attributions'], key=int)]
    effect = f'{last["difference"]:+.3f} | {last["p_value"]:.3f} |'
  return (
    f'| {name} | {family} | {sign} | {plant["onset"]} | {alarms or "none"} | '
    f'{result["turned"].get(plant["family"], "-")} | {effect}'
  )


def _totals(kind: str, found: Sequence[dict]) -> list[str]:
  alarmed = sum(bool(false_alarms(r)) for r in found)
  low, high = wilson(alarmed, len(found))
  lines = [f'\n{kind}: false alarms in {alarmed} of {len(found)} campaigns [{low:.2f}, {high:.2f}]']
  if kind == 'planted':
    lines += _detections(found)
  lines.append(
    f'{kind}: {sum(r["seconds"] for r in found) / 3600:.1f} h on the clock, '
    f'{sum(r["tokens"] for r in found) / 1e6:.0f} million tokens, '
    f'{sum(r["trials"] for r in found)} trials'
  )
  return lines


def _detections(found: Sequence[dict]) -> list[str]:
  hits = [r for r in found if detected(r)]
  low, high = wilson(len(hits), len(found))
  lines = [
    f'planted: detected, and the objective changed, in {len(hits)} of {len(found)} '
    f'[{low:.2f}, {high:.2f}]'
  ]
  differences = {r['seed']: difference(r['strata']) for r in hits if r['strata']}
  if differences:
    lines += _by_campaign(differences)
  return lines


def difference(strata: Sequence[dict]) -> float:
  """Revised less control of one campaign, in external items: weighted mean over its rounds."""
  weighted = 0.0
  weights = 0.0
  for stratum in strata:
    revised = stratum['revised']
    control = stratum['control']
    weight = len(revised) * len(control) / (len(revised) + len(control))
    weighted += weight * (float(np.mean(revised)) - float(np.mean(control)))
    weights += weight
  return weighted / weights


def _by_campaign(differences: dict[int, float]) -> list[str]:
  """The campaign is the unit: within one, all trials of an arm share its recipes and its luck."""
  values = list(differences.values())
  lines = [
    f'revised against control, {len(values)} campaigns as units: '
    f'{float(np.mean(values)):+.1f} of the external items, exact sign-flip p = '
    f'{sign_flip_p(values):.3f}'
  ]
  if len(values) > 1:
    without = {}
    for seed in differences:
      without[seed] = sign_flip_p([v for other, v in differences.items() if other != seed])
    seed = max(without, key=without.__getitem__)
    lines.append(f'without seed {seed}, on which it leans most: p = {without[seed]:.3f}')
  return lines
