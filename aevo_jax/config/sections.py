"""Sections of the constitution: one frozen dataclass for each, bound by gin under its name."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Interval, doc

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, other_than

PROBES = ('rules', 'families', 'order', 'paraphrase', 'options', 'samples')

_PUZZLES = ReadWhen(one_of('tasks.path', ''))
_EXACT = ReadWhen(one_of('reversal.test', 'exact'))
_DRAWN = ReadWhen(other_than('probes.samples', 0))
_Probability = Annotated[float, Interval(gt=0, lt=1)]
_Items = Annotated[int, Ge(1)]
_ItemsOrNone = Annotated[int, Ge(0)]


@configurable('objective')
@dataclasses.dataclass(frozen=True)
class Objective:
  """What is optimised and how an answer is judged.

  Attributes:
    target: the authoritative score. 'external' is the arbiter's. 'proxies' is for campaigns that
      have none: the consensus of dev and the probes, which judge each other
      (meta_agent.drift.proxies).
    size: puzzle size, 'micro' or 'standard'.
    verifier: how answers are compared, in every score; a name that tasks.verify knows and checks.
    max_new_tokens: generation limit of every evaluation.
  """

  target: Annotated[
    str, OneOf(('external', 'proxies')), doc('dev alone is a proxy and never the target')
  ] = 'external'
  size: Annotated[str, _PUZZLES] = 'micro'
  verifier: str = 'strict'
  max_new_tokens: int = 56


@configurable('tasks')
@dataclasses.dataclass(frozen=True)
class Tasks:
  """Where the items come from.

  Attributes:
    path: a JSONL file of the user's tasks or a folder of them (see tasks.own_data); '' for the
      puzzles.
    digest: SHA-256 of the tasks, filled in when a campaign starts.
  """

  path: str = ''
  digest: str = ''


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """A set of items: how many, and of which mixture. Families left out keep the defaults.

  Attributes:
    items: how many.
    family_weight: family -> relative frequency.
    rare_share: family -> share of the rarer rule kind.
    answer_shown: family -> share of items with the flaw that tasks.mixture.AnswerShown describes.
    magnitude: as in tasks.item.Difficulty.
    extra_examples: as in tasks.item.Difficulty.
  """

  items: _Items
  family_weight: Annotated[dict[str, float], _PUZZLES] = dataclasses.field(default_factory=dict)
  rare_share: Annotated[dict[str, float], _PUZZLES] = dataclasses.field(default_factory=dict)
  answer_shown: Annotated[dict[str, float], _PUZZLES] = dataclasses.field(default_factory=dict)
  magnitude: Annotated[float, _PUZZLES] = 1.0
  extra_examples: Annotated[int, _PUZZLES] = 0


@configurable('dev_set')
@dataclasses.dataclass(frozen=True)
class DevSet(EvalSet):
  """The internal proxy. Its seed is public."""

  items: _Items = 1200
  seed: int = 0


@configurable('external_set')
@dataclasses.dataclass(frozen=True)
class ExternalSet(EvalSet):
  """The arbiter's private set, drawn with the arbiter's secret."""

  items: _Items = 3000


@configurable('final_set')
@dataclasses.dataclass(frozen=True)
class FinalSet(EvalSet):
  """Scored once, after the last round."""

  items: _Items = 3000


@configurable('holdout')
@dataclasses.dataclass(frozen=True)
class Holdout:
  """The arbiter's commitment to its secret.

  Attributes:
    commitment: SHA-256 of the secret, filled in when the campaign starts. The secret is revealed
      after the final score.
  """

  commitment: str = ''


@configurable('budget')
@dataclasses.dataclass(frozen=True)
class Budget:
  """What a campaign may spend. Tokens and steps bind a trial; the deadline only fails it.

  Attributes:
    rounds: of the campaign.
    workers: trials a round; worker 0 is the anchor.
    noise_seeds: trials of the starting recipe in round 0.
    final_seeds: retrainings of each recipe for the final score.
    trial_tokens: padded tokens (steps x rows x row length) that a trial may train on.
    trial_steps: optimizer steps of a trial at most.
    trial_deadline_s: wall-clock seconds after which a worker is killed.
    retries: of a trial after infrastructure failures.
    wall_clock_s: seconds that the whole campaign may take, without the times in which it was
      stopped. No round begins that would not end in time. 0 = no cap.
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
  """When a gain counts.

  Attributes:
    confidence: that the one-sided t statistic against the noise floor must reach.
    min_gain: least gain that counts.
    seed_sd_floor: least standard deviation between training seeds that is ever assumed, since
      three seeds can look alike by luck.
  """

  confidence: Annotated[float, Interval(ge=0.5, lt=1)] = 0.9
  min_gain: float = 0.01
  seed_sd_floor: float = 0.005


@configurable('release')
@dataclasses.dataclass(frozen=True)
class Release:
  """What the arbiter gives out.

  Attributes:
    per_round: external scores a round.
    decimals: of each score.
  """

  per_round: Annotated[int, Ge(1), doc('the anchor needs one')] = 4
  decimals: int = 2


@configurable('submission')
@dataclasses.dataclass(frozen=True)
class Submission:
  """What campaign.arbiter = 'manual' hands out for scoring.

  Attributes:
    max_rank: every recipe trains a LoRA adapter of this rank at most, and the adapter is handed
      out; 0 = the weights, or an adapter of any rank.
    base_name: name or path under which the scorer has the base; an adapter names it.
  """

  max_rank: Annotated[int, Ge(0)] = 0
  base_name: str = 'base'


@configurable('keep_or_discard')
@dataclasses.dataclass(frozen=True)
class KeepOrDiscard:
  """The rhythm of campaign.agent = 'keep_or_discard'.

  Attributes:
    anchors: trials of a newly kept recipe before anything is compared with it.
    anchor_every: one of so many further trials is the standing recipe again.
    screen: one-sided p value of a change's first look up to which it gets the second one, which
      decides.
  """

  anchors: Annotated[int, Ge(1)] = 4
  anchor_every: Annotated[int, Ge(2)] = 10
  screen: _Probability = 0.1


@configurable('reversal')
@dataclasses.dataclass(frozen=True)
class Reversal:
  """When dev no longer tracks the external score (meta_agent.drift.reversal).

  Attributes:
    alpha: error rate of a whole campaign, over all tests, families and looks.
    gain_share: of alpha, for the test that dev gained and the external score did not follow.
    slope_share: of alpha, for the test that the slope of external on dev fell. What is left is for
      the test that dev and external rank trials against each other.
    transfer: share of a gain on dev that must arrive on the external set.
    calibration_rounds: the first rounds, which give the reference slope of external on dev. Nothing
      is called decoupled before they are over.
    test: what calls a family reversed: 'e_process', looked at after every round, or 'exact', once,
      after `exact_rounds` rounds.
    exact_rounds: rounds that 'exact' waits for.
    power: of the minimum detectable effect that goes with every verdict.
    blind: whether a campaign may start whose verdicts could detect nothing.
  """

  alpha: _Probability = 0.05
  gain_share: Annotated[float, Interval(ge=0, lt=1)] = 0.5
  slope_share: Annotated[float, Interval(ge=0, lt=1)] = 0.3
  transfer: Annotated[float, Interval(gt=0, le=1)] = 0.5
  calibration_rounds: Annotated[int, Ge(1)] = 2
  test: Annotated[str, OneOf(('e_process', 'exact'))] = 'e_process'
  exact_rounds: Annotated[int, Ge(1), _EXACT] = 4
  power: _Probability = 0.8
  blind: bool = False

  def __post_init__(self):
    if self.gain_share + self.slope_share >= 1:
      raise ValueError(
        f'reversal.gain_share = {self.gain_share:g} and reversal.slope_share = '
        f'{self.slope_share:g} leave nothing of reversal.alpha for the ranks; lower one'
      )


@configurable('control')
@dataclasses.dataclass(frozen=True)
class Control:
  """The control arm after a revision of the objectives.

  A revision is supported if the revised explorers beat the control explorers on the external score,
  by a one-sided exact permutation test.

  Attributes:
    workers: explorers that go on under the objectives before the revision.
    rounds: for how many rounds they do.
    alpha: error rate of the test.
  """

  workers: Annotated[int, Ge(0), ReadWhen(other_than('control.rounds', 0))] = 3
  rounds: Annotated[int, Ge(0), ReadWhen(other_than('control.workers', 0))] = 2
  alpha: Annotated[
    _Probability,
    ReadWhen(other_than('control.rounds', 0)),
    ReadWhen(other_than('control.workers', 0)),
  ] = 0.05


@configurable('starting_recipe')
@dataclasses.dataclass(frozen=True)
class StartingRecipe:
  """What a person binds of the recipe that a campaign starts from, over the substrate's.

  Attributes:
    bindings: selector -> value; those of a recipe's own sections, such as optimizer.learning_rate,
      are entered here when a campaign starts.
  """

  bindings: dict = dataclasses.field(default_factory=dict)


@configurable('llm_rules')
@dataclasses.dataclass(frozen=True)
class LlmRules:
  """What a language model reads and may cost, with campaign.agent or workers_choose = 'llm'.

  Attributes:
    system_prompt: the first message of every request.
    token_cap: tokens of the whole campaign, in and out; never exceeded.
    money_cap: money of the whole campaign, by the operator's prices; never exceeded.
  """

  system_prompt: str = ''
  token_cap: Annotated[int, Ge(0)] = 1_000_000
  money_cap: Annotated[float, Ge(0)] = 10.0


@configurable('probes')
@dataclasses.dataclass(frozen=True)
class Probes:
  """Further scores of every candidate, for campaigns without an external target.

  See evaluation.probes. Each probe costs a generation pass over its items; one of 0 items is off.

  Attributes:
    seed: of items, orders and samples; public.
    rules: items of puzzles with rules that neither dev nor training asks, rare kinds included.
    families: items of the families that dev_set.family_weight sets to 0.
    order: dev items with their examples in another order.
    paraphrase: dev items in other words; the user's tasks are put in other words by `templates`.
    options: dev items of a multiple choice with their options in another order.
    samples: dev items that are answered `draws` times at `temperature`; the score is pass@`k`.
    draws: answers of each of the `samples` items.
    k: of pass@k.
    temperature: of the `samples` items.
    templates: of `paraphrase`, each with {prompt}.
  """

  seed: Annotated[
    int, ReadWhen(*(other_than(f'probes.{name}', 0) for name in PROBES if name != 'paraphrase'))
  ] = 0
  rules: _ItemsOrNone = 0
  families: _ItemsOrNone = 0
  order: _ItemsOrNone = 0
  paraphrase: _ItemsOrNone = 0
  options: _ItemsOrNone = 0
  samples: _ItemsOrNone = 0
  draws: Annotated[int, _DRAWN] = 4
  k: Annotated[int, _DRAWN] = 2
  temperature: Annotated[float, Gt(0), doc('dev is the greedy score'), _DRAWN] = 1.0
  templates: Annotated[
    tuple[str, ...],
    ReadWhen(other_than('probes.paraphrase', 0)),
    ReadWhen(other_than('tasks.path', '')),
  ] = ()

  def __post_init__(self):
    if not 1 <= self.k <= self.draws:
      raise ValueError(f'probes.k must lie in [1, probes.draws = {self.draws}], got {self.k}')
    for template in self.templates:
      if template.count('{prompt}') != 1:
        raise ValueError(f'probes.templates: {template!r} must hold {{prompt}} once')

  def used(self) -> tuple[str, ...]:
    """Returns the probes that have items."""
    return tuple(name for name in PROBES if getattr(self, name))


@configurable('search_space')
@dataclasses.dataclass(frozen=True)
class SearchSpaceText:
  """What agents may bind, as literals.

  Attributes:
    axes: axis name -> selector -> spec, as `config.search_space` reads it.
    from_round: axis name -> the first round in which it may be bound; 1 if left out.
  """

  axes: dict = dataclasses.field(default_factory=dict)
  from_round: dict[str, int] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    unknown = sorted(set(self.from_round) - set(self.axes))
    if unknown:
      raise ValueError(
        f'search_space.from_round names no axis {unknown[0]!r}; the axes are {sorted(self.axes)}'
      )
