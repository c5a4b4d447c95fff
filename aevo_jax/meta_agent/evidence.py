"""One round's evidence: what is known of its trials when it ends. Nothing else reaches an agent.

It holds sealed results and released scores only. As JSON (schema 2):

    {"schema": 2, "round": 2,
     "standing": {selector: value},
     "trials": [{"trial", "worker", "axis", "arm", "changes": {selector: value}, "status", "cause",
                 "dev": {"overall", "by_family", "other_verifier"} or null,
                 "external": released score or null,
                 "external_interval": [low, high] or null,
                 "external_by_family": {family: {"accuracy", "total", "low", "high"}} or null,
                 "external_rank": rank or null,
                 "cost": {"tokens", "steps", "flops", "seconds"}}],
     "failures": {cause: how many trials},
     "noise": {"seed_sd", "degrees_of_freedom", "replicates", "by_family": {family: sd},
               "external": {"anchor_sd", "anchor_freedom", "changed_sd", "changed_freedom"}},
     "reliability": {"dev": {stream: reliability or null}},
     "verdicts": {stream: verdict},
     "attribution": result of the control arm's test or null,
     "cost": {"tokens", "steps", "flops", "seconds"},
     "llm": {"tokens_in", "tokens_out", "money"}}

Each proportion of dev is {"correct", "total", "accuracy", "low", "high"}, with a 95% Wilson
interval over items. A stream is a family or 'overall'. Without an external target, `target` is
'proxies', the consensus stands in the external fields, and `proxies` holds what the proxies say of
each other (see campaign.decisions.proxy_target). Schema 1, of the first runs, has a part of these
fields. Earlier evidence of schema 2 has no `external` in its noise, and is read and rendered
without it.

`seconds` are measured by the workers, for people and reports: no agent that is a function of the
evidence may read them, so that a campaign repeats exactly.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aevo_jax.meta_agent.drift.proxies import Judgement
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.policy import ANCHOR
from aevo_jax.meta_agent.scores import DevScore, ReleasedScore, released_scores, rendered
from aevo_jax.stats import variance

SCHEMA = 2
PROXIES = 'proxies'

# Fields that schema 1 lacks: of the evidence, a trial, its dev score, a cost, and the noise.
_SINCE_2 = {
  'evidence': ('failures', 'reliability', 'verdicts', 'attribution', 'cost'),
  'trial': ('arm', 'external_interval', 'external_by_family'),
  'dev': ('other_verifier',),
  'cost': ('seconds',),
  'noise': ('by_family', 'external'),
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class EvidenceError(ValueError):
  """Text that is no evidence of a known schema; the message names what to do."""


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a trial, or a round, claims to have cost.

  Attributes:
    tokens: that were trained on.
    steps: of the optimizer.
    flops: floating-point operations.
    seconds: of the workers; None in schema 1.
    probe_completions: answers to probes, of a trial without an external target; else None.
  """

  tokens: float = 0
  steps: float = 0
  flops: float = 0
  seconds: float | None = 0
  probe_completions: int | None = None

  def to_json(self) -> dict[str, Any]:
    """Renders the fields; `probe_completions` only where there are probes."""
    fields = dict(vars(self))
    if self.probe_completions is None:
      del fields['probe_completions']
    return fields


@dataclasses.dataclass(frozen=True)
class ExternalNoise:
  """The spread of released external scores between seeds of one recipe, without any floor.

  Attributes:
    anchor_sd: pooled over the recipes that anchors ran.
    anchor_freedom: its degrees of freedom; 0 where nothing was replicated.
    changed_sd: pooled over changed recipes, without the trial for which each was chosen.
    changed_freedom: its degrees of freedom.
  """

  anchor_sd: float = 0.0
  anchor_freedom: int = 0
  changed_sd: float = 0.0
  changed_freedom: int = 0

  @classmethod
  def pooled(
    cls, anchors: Sequence[Sequence[float]], changed: Sequence[Sequence[float]]
  ) -> 'ExternalNoise':
    """Pools the standard deviations within groups.

    Args:
      anchors: released scores of anchors, a group for each recipe.
      changed: of changed recipes, a group for each.

    Returns:
      The noise, rounded to 6 digits.
    """
    anchor = variance.pooled_sd(anchors)
    change = variance.pooled_sd(changed)
    return cls(round(anchor.sd, 6), anchor.freedom, round(change.sd, 6), change.freedom)


@dataclasses.dataclass(frozen=True)
class Noise:
  """The spread between seeds of one recipe.

  Attributes:
    seed_sd: pooled standard deviation of an overall dev accuracy, the constitution's floor applied.
    degrees_of_freedom: of `seed_sd`.
    replicates: trials in groups of two or more.
    by_family: family -> its standard deviation.
    external: that of the score that decides; None in evidence of earlier versions.
  """

  seed_sd: float
  degrees_of_freedom: int
  replicates: int
  by_family: Mapping[str, float] = _NOTHING
  external: ExternalNoise | None = None

  @classmethod
  def pooled(cls, groups: Sequence[Sequence[float]], floor: float) -> 'Noise':
    """Pools the standard deviation between seeds of the same recipe.

    Args:
      groups: accuracies, one group for each recipe that was trained.
      floor: the least value ever assumed.

    Returns:
      The noise of one stream, without families.
    """
    sd, freedom, replicates = variance.pooled_sd(groups)
    return cls(round(max(sd, floor), 6), freedom, replicates)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Noise':
    """Reads what `to_json` renders.

    Args:
      fields: of any schema.

    Returns:
      The noise.
    """
    external = fields.get('external')
    if external is not None:
      external = ExternalNoise(**external)
    return cls(**{**fields, 'external': external})

  def to_json(self) -> dict[str, Any]:
    """Renders the fields; `external` only where it is known."""
    fields = vars(self) | {'by_family': dict(self.by_family)}
    del fields['external']
    if self.external is not None:
      fields['external'] = dict(vars(self.external))
    return fields


@dataclasses.dataclass(frozen=True)
class TrialEvidence:
  """What is known of one trial.

  Attributes:
    trial: its name.
    worker: that ran it.
    axis: that it changed, or 'anchor'.
    arm: 'control' or 'revised' while a revision is tested, else ''.
    changes: selector -> value, over the standing recipe (see `Agent.changes_are_whole`).
    status: 'sealed', 'failed' or 'refused'.
    cause: of a failure.
    dev: its score, None without one.
    external: its released score.
    external_interval: Wilson interval of `external`; None where the number of items is not known.
    external_by_family: family -> released score.
    external_rank: among the round's trials, 0 the worst.
    cost: what it claims.
    proxies: proxy -> stream -> (score, its variance by items), without an external target.
    same_as_dev: probe -> share of its answers that are those on dev, where that is measured.
  """

  trial: str = ''
  worker: int = 0
  axis: str = ANCHOR
  arm: str = ''
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)
  status: str = 'sealed'
  cause: str = ''
  dev: DevScore | None = None
  external: float | None = None
  external_interval: Sequence[float] | None = None
  external_by_family: Mapping[str, ReleasedScore] | None = None
  external_rank: int | None = None
  cost: Cost = Cost()
  proxies: Mapping[str, Mapping[str, Sequence[float]]] | None = None
  same_as_dev: Mapping[str, float] | None = None

  @property
  def is_anchor(self) -> bool:
    """Whether it ran the standing recipe unchanged."""
    return self.axis == ANCHOR

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'TrialEvidence':
    """Reads a row.

    Args:
      fields: of any schema; what a schema lacks takes its default.

    Returns:
      The row.
    """
    # The default of `seconds` is for trials that report none.
    typed: dict[str, Any] = {'cost': Cost(**({'seconds': None} | fields['cost']))}
    if fields['dev'] is not None:
      typed['dev'] = DevScore.from_json(fields['dev'])
    released = fields.get('external_by_family')
    if released is not None:
      typed['external_by_family'] = released_scores(released)
    return cls(**{**fields, **typed})

  def to_json(self) -> dict[str, Any]:
    """Renders the row; `same_as_dev` only where it is measured."""
    fields = vars(self) | {
      'changes': dict(self.changes),
      'dev': None if self.dev is None else self.dev.to_json(),
      'external_by_family': rendered(self.external_by_family),
      'cost': self.cost.to_json(),
    }
    if self.same_as_dev is None:
      del fields['same_as_dev']
    return fields


@dataclasses.dataclass(frozen=True)
class Panel:
  """What the proxies say of each other, with the share of dev's items that each family has."""

  judgement: Judgement
  shares: Mapping[str, float]

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Panel':
    """Reads what `to_json` renders.

    Args:
      fields: the `proxies` of evidence.

    Returns:
      The panel.
    """
    return cls(Judgement.from_json(fields), fields['shares'])

  def to_json(self) -> dict[str, Any]:
    """Renders the judgement and the shares side by side."""
    return self.judgement.to_json() | {'shares': dict(self.shares)}


@dataclasses.dataclass(frozen=True)
class Evidence:
  """The evidence of one round.

  Attributes:
    round: its number; round 0 runs the starting recipe alone.
    standing: the standing recipe's overlay, selector -> value.
    trials: in the order of workers.
    noise: the spread between seeds so far.
    failures: cause -> trials that failed or were refused.
    reliability: 'dev' -> stream -> share of the variance that is not the items' luck, or None.
    verdicts: stream -> verdict; empty before one can be spoken.
    attribution: result of the control arm's test, None without one.
    cost: of the whole round.
    llm: what a language model took for the round's policy and its workers' choices.
    target: 'proxies' without an external target, else ''.
    proxies: what the proxies say of each other, None with an external target.
    schema: of the JSON it was read from.
  """

  round: int
  standing: dict[str, Any]
  trials: tuple[TrialEvidence, ...]
  noise: Noise
  failures: Mapping[str, int] = _NOTHING
  reliability: Mapping[str, Mapping[str, float | None]] = _NOTHING
  verdicts: Mapping[str, Verdict] = _NOTHING
  attribution: Mapping[str, Any] | None = None
  cost: Cost = Cost()
  llm: Mapping[str, float] = _NOTHING
  target: str = ''
  proxies: Panel | None = None
  schema: int = SCHEMA

  @property
  def anchors(self) -> list[TrialEvidence]:
    """The anchors that have a dev score."""
    return [t for t in self.trials if t.is_anchor and t.dev is not None]

  @property
  def explorers(self) -> list[TrialEvidence]:
    """The trials of changes that have a dev score."""
    return [t for t in self.trials if not t.is_anchor and t.dev is not None]

  @property
  def families(self) -> list[str]:
    """Families that dev is told by, sorted."""
    found: set[str] = set()
    for trial in self.trials:
      if trial.dev is not None:
        found.update(trial.dev.by_family)
    return sorted(found)

  @classmethod
  def from_json(cls, text: str | Mapping[str, Any]) -> 'Evidence':
    """Reads evidence.

    Args:
      text: an evidence file, or the object in it.

    Returns:
      The evidence, which `to_text` renders back to the same bytes.

    Raises:
      EvidenceError: the text is no evidence, or of a schema that this version does not know.
    """
    try:
      fields = json.loads(text) if isinstance(text, str) else text
      schema = fields['schema']
      if schema not in (1, SCHEMA):
        raise EvidenceError(
          f'evidence of schema {schema!r}, and schemas 1 and {SCHEMA} are known; read it with the '
          'version of aevo that wrote it'
        )
      typed: dict[str, Any] = {
        'trials': tuple(TrialEvidence.from_json(row) for row in fields['trials']),
        'noise': Noise.from_json(fields['noise']),
        'verdicts': {s: Verdict(**v) for s, v in fields.get('verdicts', {}).items()},
        'cost': Cost(**fields.get('cost', {})),
      }
      if fields.get('proxies') is not None:
        typed['proxies'] = Panel.from_json(fields['proxies'])
      return cls(**{**fields, **typed})
    except EvidenceError:
      raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise EvidenceError(f'no evidence ({type(error).__name__}: {error})') from None

  def to_json(self) -> dict[str, Any]:
    """Renders the evidence in its schema; `target` and `proxies` only without an external target.

    Returns:
      An object for `json.dumps`.
    """
    trials = [trial.to_json() for trial in self.trials]
    fields = vars(self) | {
      'standing': dict(self.standing),
      'trials': trials,
      'noise': self.noise.to_json(),
      'failures': dict(self.failures),
      'reliability': dict(self.reliability),
      'verdicts': {s: dataclasses.asdict(v) for s, v in self.verdicts.items()},
      'cost': self.cost.to_json(),
      'llm': dict(self.llm),
    }
    if self.proxies is None:
      del fields['target'], fields['proxies']
      for trial in trials:
        del trial['proxies']
    else:
      fields['proxies'] = self.proxies.to_json()
    return fields if self.schema == SCHEMA else _as_schema_1(fields)

  def to_text(self) -> str:
    """Renders the evidence file; the ledger holds the SHA-256 of it."""
    return json.dumps(self.to_json(), indent=1, sort_keys=True) + '\n'


def failures(trials: Sequence[TrialEvidence]) -> dict[str, int]:
  """Counts the causes of failures.

  Args:
    trials: of a round.

  Returns:
    cause -> trials that failed or were refused, in the order of their first appearance.
  """
  causes: collections.Counter[str] = collections.Counter()
  for trial in trials:
    if trial.status in ('failed', 'refused'):
      causes[trial.cause] += 1
  return dict(causes)


def total_cost(trials: Sequence[TrialEvidence]) -> Cost:
  """Adds up what trials cost.

  Args:
    trials: of a round.

  Returns:
    The sums, rounded to a tenth, without completions of probes.
  """
  sums = {}
  for name in ('tokens', 'steps', 'flops', 'seconds'):
    sums[name] = round(sum(getattr(t.cost, name) for t in trials), 1)
  return Cost(**sums)


def _as_schema_1(fields: dict[str, Any]) -> dict[str, Any]:
  """Removes what schema 1 lacks."""
  parts = [(fields, 'evidence'), (fields['noise'], 'noise')]
  for trial in fields['trials']:
    parts.append((trial, 'trial'))
    parts.append((trial['cost'], 'cost'))
    if trial['dev'] is not None:
      parts.append((trial['dev'], 'dev'))
  for part, name in parts:
    for later in _SINCE_2[name]:
      part.pop(later, None)
  if not fields['llm']:
    del fields['llm']
  return fields
