"""The constitution: what counts as improvement, and everything else that no agent may change.

`constitution.gin` holds literals only. At the start of a campaign it is read together with the
operator's own gin, the arbiter's commitment is filled in, and the result is rendered canonically
into the run directory; from then on only that file counts, and its digest is in the first ledger
record. An agent's text can only bind selectors of the search space, and no name below is in it.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Annotated, get_type_hints

from annotated_types import Ge, Gt, Interval, doc

from aevo_jax.config.configurables import check_type, configurable, resolve
from aevo_jax.config.constraints import OneOf
from aevo_jax.config.inference import WHOLE_TRANSPORTS, Evaluation, Vllm, server_of
from aevo_jax.config.loading import LoadError
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.config.statements import Binding, parse_statements, render

MAX_BYTES = 64 * 1024
FINAL_ROUND = -1

_Probability = Annotated[float, Interval(gt=0, lt=1)]


@configurable('objective')
@dataclasses.dataclass(frozen=True)
class Objective:
  """What is optimised and how an answer is judged.

  Attributes:
    target: the authoritative score: 'external', the arbiter's; or 'proxies' where there is nothing
      of that kind: the consensus of dev and the probes, which judge each other
        (meta_agent.drift.proxies).
    size: puzzle size, 'micro' or 'standard'.
    verifier: how answers are compared, in every score: a name of tasks.verify, which checks it.
    max_new_tokens: generation limit of every evaluation.
  """

  target: Annotated[
    str, OneOf(('external', 'proxies')), doc('dev alone is a proxy and never the target')
  ] = 'external'
  size: str = 'micro'
  verifier: str = 'strict'
  max_new_tokens: int = 56


@configurable('tasks')
@dataclasses.dataclass(frozen=True)
class Tasks:
  """Where the items come from.

  Attributes:
    path: a JSONL file of your own or a folder of them (see tasks.own_data); '' for the puzzles.
    digest: SHA-256 of its tasks, filled in when a campaign starts.
  """

  path: str = ''
  digest: str = ''


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """A set of items: how many, and of which mixture (family -> weight, share of the rarer rule kind,
  share of items with the flaw that tasks.mixture.AnswerShown describes; families left out keep
  defaults)."""

  items: Annotated[int, Ge(1)]
  family_weight: dict[str, float] = dataclasses.field(default_factory=dict)
  rare_share: dict[str, float] = dataclasses.field(default_factory=dict)
  answer_shown: dict[str, float] = dataclasses.field(default_factory=dict)
  magnitude: float = 1.0
  extra_examples: int = 0


@configurable('dev_set')
@dataclasses.dataclass(frozen=True)
class DevSet(EvalSet):
  """The internal proxy. Its seed is public."""

  items: Annotated[int, Ge(1)] = 1200
  seed: int = 0


@configurable('external_set')
@dataclasses.dataclass(frozen=True)
class ExternalSet(EvalSet):
  """The arbiter's private set, drawn with the arbiter's secret."""

  items: Annotated[int, Ge(1)] = 3000


@configurable('final_set')
@dataclasses.dataclass(frozen=True)
class FinalSet(EvalSet):
  """Scored once, after the last round."""

  items: Annotated[int, Ge(1)] = 3000


@configurable('holdout')
@dataclasses.dataclass(frozen=True)
class Holdout:
  """`commitment`: SHA-256 of the arbiter's secret, filled in when the campaign starts; the secret
  is revealed after the final score.
  """

  commitment: str = ''


@configurable('budget')
@dataclasses.dataclass(frozen=True)
class Budget:
  """Tokens and steps bind a trial; the deadline only fails it.

  Attributes:
    rounds, workers: rounds of the campaign; trials a round, worker 0 being the anchor.
    noise_seeds: trials of the starting recipe in round 0. final_seeds: retrainings of each recipe
      for the final score.
    trial_tokens: padded tokens (steps x rows x row length) a trial may train on. trial_steps:
      optimizer steps at most.
    trial_deadline_s: wall-clock seconds after which a worker is killed. retries: of infrastructure
      failures, a trial.
    wall_clock_s: seconds that the whole campaign may take, times in which it was stopped left out;
      no round is begun that would not end in time. 0 = no cap.
  """

  rounds: Annotated[int, Ge(1)] = 4
  workers: Annotated[int, Ge(1)] = 8
  noise_seeds: Annotated[int, Ge(2)] = 3
  final_seeds: Annotated[int, Ge(1)] = 3
  trial_tokens: Annotated[int, Ge(1)] = 122_880
  trial_steps: Annotated[int, Ge(1)] = 480
  trial_deadline_s: float = 300.0
  retries: Annotated[int, Ge(0)] = 2
  wall_clock_s: Annotated[float, Ge(0)] = 0.0


@configurable('promotion')
@dataclasses.dataclass(frozen=True)
class Promotion:
  """A gain counts if it is at least `min_gain` and its one-sided t statistic against the noise
  floor reaches `confidence`.

  `seed_sd_floor` is the least standard deviation between training seeds that is ever assumed: three
  seeds can look alike by luck.
  """

  confidence: Annotated[float, Interval(ge=0.5, lt=1)] = 0.9
  min_gain: float = 0.01
  seed_sd_floor: float = 0.005


@configurable('release')
@dataclasses.dataclass(frozen=True)
class Release:
  """How many external scores the arbiter gives out a round, and with how many decimals."""

  per_round: Annotated[int, Ge(1), doc('the anchor needs one')] = 4
  decimals: int = 2


@configurable('submission')
@dataclasses.dataclass(frozen=True)
class Submission:
  """What campaign.arbiter = 'manual' hands out for scoring.

  Attributes:
    max_rank: every recipe trains a LoRA adapter of this rank at most, and the adapter is what is
      handed out; 0 = the weights, or an adapter of any rank.
    base_name: under which name or path whoever scores it has the base; an adapter names it.
  """

  max_rank: Annotated[int, Ge(0)] = 0
  base_name: str = 'base'


@configurable('keep_or_discard')
@dataclasses.dataclass(frozen=True)
class KeepOrDiscard:
  """The rhythm of campaign.agent = 'keep_or_discard'.

  Attributes:
    anchors: trials of a newly kept recipe before anything is compared with it. anchor_every: of
      every so many further trials one is the standing recipe again.
    screen: one-sided p value of a change's first look up to which it gets the second one that
      decides.
  """

  anchors: Annotated[int, Ge(1)] = 4
  anchor_every: Annotated[int, Ge(2)] = 10
  screen: _Probability = 0.1


@configurable('reversal')
@dataclasses.dataclass(frozen=True)
class Reversal:
  """When the loop says that dev does not track the external score any more (meta_agent.drift.reversal).

  Attributes:
    alpha: error rate of a whole campaign, over all families and all looks.
    calibration_rounds: the first rounds, whose slope of external on dev is the reference; nothing
      is called decoupled before they are over.
    test: what calls a family reversed: 'e_process', looked at after every round, or 'exact', once,
      after `exact_rounds` rounds.
    power: of the minimum detectable effect that goes with every verdict.
    replays: coupled campaigns that are simulated to fix the threshold of a round before it is run.
  """

  alpha: _Probability = 0.05
  calibration_rounds: Annotated[int, Ge(1)] = 2
  test: Annotated[str, OneOf(('e_process', 'exact'))] = 'e_process'
  exact_rounds: Annotated[int, Ge(1)] = 4
  power: _Probability = 0.8
  replays: Annotated[int, Ge(100)] = 2000


@configurable('control')
@dataclasses.dataclass(frozen=True)
class Control:
  """After a revision of the objectives, `workers` explorers go on under the objectives before it
  for `rounds` rounds; the revision is supported if the revised explorers beat them on the external
  score, one-sided exact permutation test at `alpha`."""

  workers: Annotated[int, Ge(0)] = 3
  rounds: Annotated[int, Ge(0)] = 2
  alpha: _Probability = 0.05


@configurable('llm_rules')
@dataclasses.dataclass(frozen=True)
class LlmRules:
  """What a language model is told, and what it may cost, where one is asked (campaign.agent or
  campaign.workers_choose = 'llm').

  Attributes:
    system_prompt: the first message of every request.
    token_cap: tokens of the whole campaign, in and out. money_cap: money of it, by the operator's
      prices. Neither is ever exceeded.
  """

  system_prompt: str = ''
  token_cap: Annotated[int, Ge(0)] = 1_000_000
  money_cap: Annotated[float, Ge(0)] = 10.0


@configurable('probes')
@dataclasses.dataclass(frozen=True)
class Probes:
  """Further scores of every candidate, for campaigns without an external target
  (evaluation.probes). Each costs a generation pass over its items.

  Attributes:
    seed: of items, orders and samples; public.
    rules: items of puzzles whose rules neither dev nor training asks, rare kinds included; 0 for no
      such probe, as below.
    families: items of the families that dev_set.family_weight sets to 0.
    order: dev items with their examples in another order. paraphrase: dev items in other words; of
      tasks of one's own by `templates`, each with {prompt}.
    options: dev items of a multiple choice with their options in another order.
    samples: dev items that are answered `draws` times at `temperature`; the score is pass@`k`.
  """

  seed: int = 0
  rules: Annotated[int, Ge(0)] = 0
  families: Annotated[int, Ge(0)] = 0
  order: Annotated[int, Ge(0)] = 0
  paraphrase: Annotated[int, Ge(0)] = 0
  options: Annotated[int, Ge(0)] = 0
  samples: Annotated[int, Ge(0)] = 0
  draws: int = 4
  k: int = 2
  temperature: Annotated[float, Gt(0), doc('dev is the greedy score')] = 1.0
  templates: tuple[str, ...] = ()

  def __post_init__(self):
    if not 1 <= self.k <= self.draws:
      raise ValueError(f'probes.k must lie in [1, probes.draws = {self.draws}], got {self.k}')
    for template in self.templates:
      if template.count('{prompt}') != 1:
        raise ValueError(f'probes.templates: {template!r} must hold {{prompt}} once')

  def used(self) -> tuple[str, ...]:
    """The probes that have items."""
    return tuple(name for name in PROBES if getattr(self, name))


PROBES = ('rules', 'families', 'order', 'paraphrase', 'options', 'samples')


@configurable('search_space')
@dataclasses.dataclass(frozen=True)
class SearchSpaceText:
  """`axes`: axis name -> selector -> spec, as `config.search_space` reads it. `from_round`: axis
  name -> the first round in which it may be bound; 1 if left out.
  """

  axes: dict = dataclasses.field(default_factory=dict)
  from_round: dict[str, int] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    unknown = sorted(set(self.from_round) - set(self.axes))
    if unknown:
      raise ValueError(
        f'search_space.from_round names no axis {unknown[0]!r}; the axes are {sorted(self.axes)}'
      )


_SECTIONS = {
  'objective': Objective,
  'tasks': Tasks,
  'dev_set': DevSet,
  'external_set': ExternalSet,
  'final_set': FinalSet,
  'holdout': Holdout,
  'budget': Budget,
  'promotion': Promotion,
  'release': Release,
  'submission': Submission,
  'keep_or_discard': KeepOrDiscard,
  'reversal': Reversal,
  'control': Control,
  'probes': Probes,
  'evaluation': Evaluation,
  'vllm': Vllm,
  'llm_rules': LlmRules,
  'search_space': SearchSpaceText,
}
# Spelled out only where they are not the defaults, so that a constitution that has no use for them
# keeps its digest and holdout.
_OPTIONAL = ('tasks', 'submission', 'keep_or_discard', 'probes', 'evaluation', 'vllm')


@dataclasses.dataclass(frozen=True)
class Constitution:
  """All sections. Two constitutions with equal `text()` are the same constitution."""

  objective: Objective
  tasks: Tasks
  dev_set: DevSet
  external_set: ExternalSet
  final_set: FinalSet
  holdout: Holdout
  budget: Budget
  promotion: Promotion
  release: Release
  submission: Submission
  keep_or_discard: KeepOrDiscard
  reversal: Reversal
  control: Control
  probes: Probes
  evaluation: Evaluation
  vllm: Vllm
  llm_rules: LlmRules
  search_space: SearchSpaceText

  def __post_init__(self):
    if self.objective.target == 'proxies' and not self.probes.used():
      raise LoadError(
        "objective.target = 'proxies' needs something beside dev to judge it by; give "
        f'one of {", ".join(f"probes.{name}" for name in PROBES)} some items'
      )
    if bool(self.vllm.url) != bool(self.evaluation.arbiter_url) or (
      self.vllm.url and server_of(self.vllm.url) == server_of(self.evaluation.arbiter_url)
    ):
      raise LoadError(
        "vllm.url is the evaluator's server and evaluation.arbiter_url the arbiter's, "
        'which are given different weights at the same time: bind both, to different '
        'servers, or neither, '
        'and each starts its own'
      )
    if self.evaluation.engine != 'vllm' and self.vllm != Vllm():
      raise LoadError(
        "nothing reads vllm.* while evaluation.engine = 'jax'; bind evaluation.engine = "
        "'vllm', or leave vllm.* out"
      )
    if self.evaluation.engine == 'vllm' and self.vllm.carrier not in WHOLE_TRANSPORTS:
      raise LoadError(
        f'vllm.carrier = {self.vllm.carrier!r} cannot carry sealed weights; bind one of '
        f'{", ".join(WHOLE_TRANSPORTS)}'
      )

  def text(self) -> str:
    """Canonical gin text, every field spelled out, of the `_OPTIONAL` sections only where something
    is set.
    """
    return render(
      Binding(f'{name}.{field.name}', getattr(getattr(self, name), field.name))
      for name, cls in _SECTIONS.items()
      if name not in _OPTIONAL or getattr(self, name) != cls()
      for field in dataclasses.fields(cls)
    )

  def digest(self) -> str:
    """SHA-256 of the canonical text."""
    return hashlib.sha256(self.text().encode()).hexdigest()

  def space(self) -> SearchSpace:
    """What agents may bind."""
    return self._space

  @functools.cached_property
  def _space(self) -> SearchSpace:
    return SearchSpace.from_literals(self.search_space.axes)

  def in_round(self, round_: int) -> 'Constitution':
    """The same constitution with the axes that may be bound in a round; the final, whose round is
    negative, may bind all.
    """
    axes, first = self.search_space.axes, self.search_space.from_round
    open_ = {
      name: axis for name, axis in axes.items() if round_ < 0 or first.get(name, 1) <= round_
    }
    return (
      self
      if len(open_) == len(axes)
      else dataclasses.replace(self, search_space=SearchSpaceText(open_))
    )

  def committed(self, commitment: str) -> 'Constitution':
    """The same constitution with the arbiter's commitment in it."""
    return dataclasses.replace(self, holdout=Holdout(commitment))

  def with_tasks(self, digest: str) -> 'Constitution':
    """The same constitution with the digest of its tasks in it."""
    return dataclasses.replace(self, tasks=Tasks(self.tasks.path, digest))


def from_gin(**given) -> Constitution:
  """The constitution of the loaded gin configuration (see `loading.load`). given: sections by name,
  in the place of what was loaded.
  """
  constitution = Constitution(**({name: resolve(name) for name in _SECTIONS} | given))
  for round_ in (FINAL_ROUND, *range(1, constitution.budget.rounds + 1)):
    constitution.in_round(round_).space()  # a malformed space is an error now, not in that round
  return constitution


def read(path: pathlib.Path) -> Constitution:
  """Reads a rendered constitution without running gin.

  Raises:
    StatementError: not literal statements. LoadError: unknown names or wrong types.
  """
  values: dict[str, dict] = {name: {} for name in _SECTIONS}
  for binding in parse_statements(path.read_text(), max_bytes=MAX_BYTES):
    name, _, field = binding.selector.rpartition('.')
    known = get_type_hints(_SECTIONS[name]) if name in _SECTIONS else {}
    if field not in known:
      legal = [f'{n}.{f.name}' for n, cls in _SECTIONS.items() for f in dataclasses.fields(cls)]
      raise LoadError(
        f'{path}: the constitution has no {binding.selector}' + suggestion(binding.selector, legal)
      )
    values[name][field] = check_type(binding.value, known[field], binding.selector)
  return Constitution(**{name: cls(**values[name]) for name, cls in _SECTIONS.items()})


def check_literal_only(text: str) -> None:
  """Raises StatementError unless `text` is nothing but literal bindings."""
  parse_statements(text, max_bytes=MAX_BYTES)


def owned_names() -> Sequence[str]:
  """Configurables that belong to the constitution."""
  return tuple(_SECTIONS)


def foreign(bindings: Iterable[Binding]) -> list[str]:
  """Selectors among `bindings` that the constitution owns."""
  return [b.selector for b in bindings if b.selector.rpartition('.')[0] in _SECTIONS]
