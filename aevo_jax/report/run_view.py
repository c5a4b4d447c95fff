"""A run as its report tells it: plain values from the ledger and the files beside it, ready for the
template; nothing is drawn or escaped here.

External scores are told as far as they may be known: before the reveal only those that the arbiter
released (two decimals), afterwards all.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

from scipy import stats

from aevo_jax.campaign import decisions
from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.settings import CampaignSettings
from aevo_jax.campaign.state import TrialState, fold
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.statements import render_value
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.agent import CONTROL, POLICY
from aevo_jax.meta_agent.llm.dialogue import Recorded
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.report import costs, gains
from aevo_jax.report import timeline as timeline_lib
from aevo_jax.report.gains import Gain, ScoreFileError
from aevo_jax.stats.intervals import wilson
from aevo_jax.substrate import manifest


class NoRunError(ValueError):
  """There is no run to report on; the message names the fix."""


@dataclasses.dataclass(frozen=True)
class Measured:
  """An accuracy with its 95% interval. exact: False for a rounded score with the interval that goes
  with it.
  """

  value: float
  low: float
  high: float
  exact: bool = True


@dataclasses.dataclass(frozen=True)
class Change:
  """One parameter: what it was in the recipe before, and what it became, as gin writes them."""

  selector: str
  before: str
  after: str


@dataclasses.dataclass(frozen=True)
class Told:
  """One trial. gain: on dev over the round's anchors, None for anchors and without scores.
  failures: what went wrong, attempt by attempt.
  """

  trial: str
  axis: str
  anchor: bool
  changes: tuple[Change, ...]
  why: str
  status: str
  dev: Measured | None
  gain: Gain | None
  external: Measured | None
  promoted: bool
  rank: int | None


@dataclasses.dataclass(frozen=True)
class Round:
  """One round. decisions: the policy's reasons. promoted: changes to the standing recipe that
  followed. noise: as the evidence has it, None before it is written.
  """

  number: int
  trials: tuple[Told, ...]
  standing: tuple[Change, ...]
  decisions: tuple[str, ...]
  promoted: tuple[Change, ...]
  noise: dict[str, float] | None
  finished: bool


@dataclasses.dataclass(frozen=True)
class Failure:
  """A failed attempt or refusal."""

  trial: str
  axis: str
  what: str
  cause: str
  message: str


class RunView:
  """A run, read once.

  Raises:
    NoRunError: nothing to report. LedgerError: the ledger is damaged. ScoreFileError: score files
      are not those of the ledger.
  """

  def __init__(self, run: pathlib.Path):
    self.run = run
    missing = [name for name in ('ledger.jsonl', 'constitution.gin') if not (run / name).is_file()]
    if missing:
      raise NoRunError(
        f'{run} is not a run: it has no {", ".join(missing)}; start one with aevo '
        f'campaign --run={run}'
      )
    self.records = read(run / 'ledger.jsonl', strict=False)
    self.state = fold(self.records)
    if self.state.started is None:
      raise NoRunError(
        f'{run} has not begun: its ledger is empty; go on with aevo campaign --resume={run}'
      )
    self.started = self.state.started
    self.constitution = constitution_lib.read(run / 'constitution.gin')
    self.policies: dict[int, Policy] = {
      k: policy_lib.from_json(p['policy']) for k, p in self.state.policies.items()
    }
    self.defaults = default_values(self.started['recipe'])

  @property
  def code(self) -> str:
    """Digest of the code tree the run was started with; '' for a run directory without the
    substrate's digests.
    """
    path = self.run / 'substrate.json'
    return manifest.read(path).code_tree.digest if path.exists() else ''

  @property
  def manual(self) -> bool:
    """Whether somebody else scored it: nothing is known of those scores but what was handed in."""
    return self.started['settings'].get('arbiter') == 'manual'

  # -- scores --------------------------------------------------------------------------------------

  @property
  def verifier(self) -> str:
    return self.constitution.objective.verifier

  @functools.cached_property
  def results(self) -> gains.FinalResults:
    return gains.final_results(self.run, self.state, self.verifier)

  @functools.cached_property
  def costs(self) -> costs.Costs:
    return costs.costs(self.records)

  @property
  def proxies_only(self) -> bool:
    """Whether there is no external target, and the consensus of the proxies stands in its place."""
    return self.constitution.objective.target == 'proxies'

  def external(self, trial: TrialState) -> Measured | None:
    """As far as it may be known; the consensus where there is no external target."""
    if self.proxies_only:
      row = (
        next((r for r in self._evidence(trial.round)['trials'] if r['trial'] == trial.trial), None)
        if trial.round in self.state.evidence
        else None
      )
      if row is None or row['external'] is None:
        return None
      variances = [parts['overall'][1] for parts in row['proxies'].values() if 'overall' in parts]
      half = float(stats.norm.ppf(0.975)) * math.sqrt(sum(variances)) / len(variances)
      return Measured(row['external'], row['external'] - half, row['external'] + half)
    if self.state.revealed is not None and trial.external_scored:
      overall = gains.revealed_summary(self.run, trial.trial, 'external')['overall']
      return Measured(overall['accuracy'], overall['low'], overall['high'])
    if trial.released is None:
      return None
    if self.manual:
      return Measured(
        trial.released, trial.released, trial.released, exact=False
      )  # of how many items it is, nobody said
    items = self.constitution.external_set.items
    return Measured(trial.released, *wilson(round(trial.released * items), items), exact=False)

  def noise(self, round_: int) -> dict[str, float] | None:
    """The noise floor as the round's evidence has it."""
    if round_ not in self.state.evidence:
      return None
    return self._evidence(round_)['noise']

  @functools.cache
  def _evidence(self, round_: int) -> dict:
    path = self.run / 'evidence' / f'round_{round_:03d}.json'
    try:
      found = json.loads(path.read_text())
      return {'noise': found['noise'], 'trials': found['trials']} | (
        {'proxies': found['proxies']} if self.proxies_only else {}
      )
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise ScoreFileError(
        f'{path} cannot be read as evidence ({type(error).__name__}: {error}); see `aevo '
        f'audit {self.run}`'
      ) from None

  # -- does dev track the target? ------------------------------------------------------------------

  @functools.cached_property
  def timeline(self) -> dict[str, list[timeline_lib.Look]]:
    """Stream -> its looks; empty before the first verdict."""
    return (
      timeline_lib.looks(self.state, self.policies, self._external_of)
      if self.state.verdicts
      else {}
    )

  @functools.cached_property
  def revisions(self) -> list[timeline_lib.Revision]:
    """Every time the policy stopped rewarding dev somewhere."""
    return timeline_lib.revisions(self.state, self.policies, self.constitution)

  def _external_of(self, trial: TrialState, stream: str) -> float | None:
    if self.state.revealed is not None and trial.external_scored:
      summary = gains.revealed_summary(self.run, trial.trial, 'external')
      found = summary['overall'] if stream == 'overall' else summary['by_family'].get(stream)
      return None if found is None else found['accuracy']
    if trial.released is None:
      return None
    return (
      trial.released
      if stream == 'overall'
      else (trial.released_families or {}).get(stream, [None])[0]
    )

  @property
  def judgements(self) -> list[dict[str, Any]]:
    """Without an external target, of every round that was judged: its number, and what the proxies
    said of each other beyond 'undetermined' and 'coupled'.
    """
    found = []
    for round_ in sorted(self.state.evidence) if self.proxies_only else ():
      said = self._evidence(round_)['proxies']
      verdicts = [
        (stream, proxy, v)
        for stream, parts in said['verdicts'].items()
        for proxy, v in parts.items()
      ]
      told = [
        {
          'stream': stream,
          'proxy': proxy,
          'verdict': v['verdict'],
          'trust': said['trust'][proxy][stream],
          'why': v['why'],
        }
        for stream, proxy, v in verdicts
        if v['verdict'] not in ('undetermined', 'coupled')
      ]
      coupled = sum(v['verdict'] == 'coupled' for _, _, v in verdicts)
      if verdicts:
        found.append(
          {
            'round': round_,
            'evidence': said['evidence'],
            'told': told,
            'nothing': (
              f'nobody departs: of {len(verdicts)} comparisons {coupled} are coupled, the '
              'others undetermined'
            ),
          }
        )
    return found

  # -- rounds --------------------------------------------------------------------------------------

  @functools.cached_property
  def rounds(self) -> tuple[Round, ...]:
    return tuple(
      self._round(number) for number in sorted(self.policies) if self.state.of_round(number)
    )

  def _round(self, number: int) -> Round:
    policy, trials = self._chosen(number), self.state.of_round(number)
    anchors = [
      t.dev['overall']['accuracy'] for t in trials if t.axis == ANCHOR and t.dev is not None
    ]
    noise, decision = self.noise(number), self.state.promotions.get(number)
    ranks = self.state.ranks.get(number, {})
    after = decision['promoted'] if decision else policy.standing
    told = []
    for t in trials:
      assignment = policy.assignments[t.worker]
      gain = None
      if t.dev is not None and t.axis != ANCHOR and anchors and noise:
        value = t.dev['overall']['accuracy'] - sum(anchors) / len(anchors)
        # Two-sided, from what the same recipe varies between seeds: the anchors' mean is uncertain
        # too.
        half = (
          float(stats.t.ppf(0.975, max(noise['degrees_of_freedom'], 1)))
          * noise['seed_sd']
          * math.sqrt(1 + 1 / len(anchors))
        )
        gain = Gain(value, value - half, value + half)
      made_it = (
        bool(assignment.changes)
        and after != policy.standing
        and all(after.get(k) == v for k, v in assignment.changes.items())
      )
      told.append(
        Told(
          t.trial,
          t.axis,
          t.axis == ANCHOR,
          self._changes(assignment, policy.standing),
          assignment.reason,
          t.status,
          _measured(t.dev),
          gain,
          self.external(t),
          made_it,
          ranks.get(t.trial),
        )
      )
    return Round(
      number,
      tuple(told),
      self._against(policy.standing, {}),
      (*(decision['reasons'] if decision else ()), *self._fallbacks(number)),
      self._against(after, policy.standing),
      noise,
      number in self.state.finished_rounds,
    )

  def _chosen(self, number: int) -> Policy:
    """The round's policy with what its workers chose."""
    settings = CampaignSettings(**self.started['settings'])
    return decisions.with_choices(
      self.policies[number],
      self.constitution,
      recipe=self.started['recipe'],
      workers_choose=settings.workers_choose,
      dialogue=lambda *question: Recorded(
        settings.llm['attempts'], *self.state.conversation(*question)
      ),
    )

  def _fallbacks(self, number: int) -> list[str]:
    """Where the language model's part was done without it: in the round's workers, or in the policy
    that followed.
    """
    return [
      f'without the language model ({purpose} of round {round_}): {cause}'
      for (round_, purpose), cause in self.state.fell_back.items()
      if (round_ == number and purpose not in (POLICY, CONTROL))
      or (round_ == number + 1 and purpose in (POLICY, CONTROL))
    ]

  def _changes(self, assignment: Assignment, standing: dict[str, Any]) -> tuple[Change, ...]:
    return tuple(
      Change(k, self._shown(standing, k), render_value(v))
      for k, v in sorted(assignment.changes.items())
    )

  def _against(self, overlay: dict[str, Any], before: dict[str, Any]) -> tuple[Change, ...]:
    """What `overlay` changes of the recipe under `before`."""
    names = [
      k
      for k in sorted(overlay.keys() | before.keys())
      if overlay.get(k, self.defaults.get(k)) != before.get(k, self.defaults.get(k))
    ]
    return tuple(Change(k, self._shown(before, k), self._shown(overlay, k)) for k in names)

  def _shown(self, overlay: dict[str, Any], selector: str) -> str:
    return (
      render_value(overlay[selector])
      if selector in overlay
      else render_value(self.defaults[selector])
      if selector in self.defaults
      else 'default'
    )

  @property
  def standing(self) -> dict[str, Any]:
    """The latest standing recipe: the promoted one once the rounds are over."""
    return self.policies[max(self.policies)].standing if self.policies else {}

  @property
  def promoted(self) -> tuple[Change, ...]:
    """The latest standing recipe against the starting one."""
    return self._against(self.standing, {})

  @property
  def dead_ends(self) -> list[dict[str, Any]]:
    """The latest registry: axis, changes, gain, confidence, round, expires, and whether it still
    holds.
    """
    if not self.policies:
      return []
    latest = self.policies[max(self.policies)]
    return [
      {
        **dataclasses.asdict(d),
        'changes': [f'{k} = {render_value(v)}' for k, v in sorted(d.changes.items())],
        'holds': d.expires >= latest.round,
      }
      for d in latest.dead_ends
    ]

  @property
  def failures(self) -> list[Failure]:
    """Failed attempts and refusals in the order they happened."""
    found = []
    for record in self.records:
      p = record.payload
      if record.kind == 'trial_failed':
        found.append(
          Failure(
            p['trial'],
            self.state.trials[p['trial']].axis,
            'failed for good' if p.get('final') else 'failed, tried again',
            p['cause'],
            p.get('message', ''),
          )
        )
      elif record.kind == 'trial_refused':
        found.append(
          Failure(
            p['trial'], self.state.trials[p['trial']].axis, 'refused', 'recipe refused', p['cause']
          )
        )
    return found

  # -- families and kinds --------------------------------------------------------------------------

  @property
  def families(self) -> list[str]:
    return sorted(self._dev_summary()['by_family']) if self._dev_summary() else []

  def _dev_summary(self) -> dict | None:
    return self.state.base or next(
      (t.dev for t in self.state.trials.values() if t.dev is not None), None
    )

  def family_gap(self, family: str) -> list[tuple[int, float, float]]:
    """(round, strict, challenge) accuracy of the round's anchors on a family's dev items, from the
    item results.
    """
    rows = []
    for round_ in self.rounds:
      counts = [0, 0, 0]
      for told in round_.trials:
        if told.anchor and told.dev is not None:
          results = [r for r in self._dev_items(told.trial) if r.family == family]
          counts = [
            counts[0] + len(results),
            counts[1] + sum(r.strict for r in results),
            counts[2] + sum(r.challenge for r in results),
          ]
      if counts[0]:
        rows.append((round_.number, counts[1] / counts[0], counts[2] / counts[0]))
    return rows

  @functools.cache
  def _dev_items(self, trial: str):
    return gains.read_items(self.run, trial, 'dev', self.state.trials[trial].dev)

  @property
  def dev_kinds(self) -> set[str]:
    """Rule kinds that occur in dev, as family/kind."""
    return set(self._dev_summary()['by_kind']) if self._dev_summary() else set()

  def final_trials(self) -> list[TrialState]:
    return self.state.of_round(FINAL)


def _measured(summary: dict | None) -> Measured | None:
  return (
    None
    if summary is None
    else Measured(*(summary['overall'][k] for k in ('accuracy', 'low', 'high')))
  )
