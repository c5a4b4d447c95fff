"""A run as its report shows it: plain values from the ledger and the files beside it.

They are ready for the template; nothing is drawn or escaped here. External scores are shown as far
as they may be known (see `known_scores`).
"""

import collections
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from scipy import special

from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.campaign.decisions.next_policy import with_choices
from aevo_jax.campaign.decisions.state import TrialState, fold
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.checkpoint.run_directory import no_campaign
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.statements import render_value
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.agent import CONTROL, POLICY
from aevo_jax.meta_agent.llm.dialogue import Recorded
from aevo_jax.meta_agent.observations import by_axis
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.report import costs, gains
from aevo_jax.report import timeline as timeline_lib
from aevo_jax.report.gains import Gain
from aevo_jax.report.known_scores import KnownScores, measured
from aevo_jax.report.rows import Change, DeadEndRow, Failure, FamilyGap, Judgement, Round, TrialRow
from aevo_jax.stats.intervals import Interval
from aevo_jax.substrate import manifest


class NoRunError(ValueError):
  """There is no run to report on; the message names the fix."""


class RunView:
  """A run, read once.

  Attributes:
    run: the run directory.
    records: the ledger's records, with a torn last line left out.
    state: the state after the last record.
    started: the payload of the first record.
    policies: round -> its recorded policy, before its workers chose.
    defaults: selector -> value of the starting recipe.
    scores: the scores of trials as far as they may be known.

  Raises:
    NoRunError: nothing to report.
    LedgerError: the ledger is damaged.
    ScoreFileError: from the properties, where score files are not those of the ledger.
  """

  def __init__(self, run: pathlib.Path):
    self.run = run
    missing = [name for name in ('ledger.jsonl', 'constitution.gin') if not (run / name).is_file()]
    if missing:
      raise NoRunError(no_campaign(run, missing))
    self.records = read(run / 'ledger.jsonl', strict=False)
    self.state = fold(self.records)
    if self.state.started is None:
      raise NoRunError(
        f'{run} has not begun: its ledger is empty; go on with aevo campaign --resume={run}'
      )
    self.started = self.state.started
    self.constitution = constitution_lib.read(run / 'constitution.gin')
    self.policies: dict[int, Policy] = {}
    for round_, payload in self.state.policies.items():
      self.policies[round_] = policy_lib.from_json(payload['policy'])
    self.defaults = default_values(self.started['recipe'])
    self.scores = KnownScores(run, self.state, self.constitution, manual=self.manual)
    self._dev_items: dict[str, list[ItemResult]] = {}

  @property
  def code(self) -> str:
    """Digest of the code that the run was started with.

    Returns:
      The code tree's digest; '' for a run directory without the substrate's digests.
    """
    path = self.run / 'substrate.json'
    if not path.exists():
      return ''
    return manifest.read(path).code_tree.digest

  @property
  def manual(self) -> bool:
    """Whether somebody else scored it: only the scores that were handed in are known."""
    return self.started['settings'].get('arbiter') == 'manual'

  @property
  def verifier(self) -> str:
    """The comparison of answers that the constitution names."""
    return self.constitution.objective.verifier

  @property
  def proxies_only(self) -> bool:
    """Whether there is no external target, and the consensus of the proxies stands in its place."""
    return self.scores.proxies_only

  @functools.cached_property
  def results(self) -> gains.FinalResults:
    """Final scores and gains."""
    return gains.final_results(self.run, self.state, self.verifier)

  @functools.cached_property
  def costs(self) -> costs.Costs:
    """Where the time went."""
    return costs.costs(self.records)

  @property
  def statuses(self) -> collections.Counter:
    """Numbers of trials, retrainings of the final among them, by status."""
    return collections.Counter(trial.status for trial in self.state.trials.values())

  # -- does dev track the target? ------------------------------------------------------------------

  @functools.cached_property
  def timeline(self) -> dict[str, list[timeline_lib.Look]]:
    """Stream -> its looks; empty before the first verdict."""
    if not self.state.verdicts:
      return {}
    return timeline_lib.looks(self.state, self.policies, self.scores.external_accuracy)

  @functools.cached_property
  def revisions(self) -> list[timeline_lib.Revision]:
    """Every time the policy stopped rewarding dev somewhere."""
    return timeline_lib.revisions(self.state, self.policies, self.constitution)

  @functools.cached_property
  def judgements(self) -> list[Judgement]:
    """How the proxies were judged, where there is no external target."""
    return self.scores.judgements()

  # -- rounds --------------------------------------------------------------------------------------

  @functools.cached_property
  def rounds(self) -> tuple[Round, ...]:
    """The rounds that have trials, in order.

    Returns:
      One row a round, with a row for each of its trials by worker.
    """
    begun = [number for number in sorted(self.policies) if self.state.of_round(number)]
    return tuple(self._round(number) for number in begun)

  def _round(self, number: int) -> Round:
    policy = self._chosen(number)
    decision = self.state.promotions.get(number)
    after = policy.standing
    reasons: Sequence[str] = ()
    if decision:
      after = decision['promoted']
      reasons = decision['reasons']
    return Round(
      number=number,
      trials=self._trials(number, policy, after),
      standing=self._against(policy.standing, {}),
      decisions=(*reasons, *self._fallbacks(number)),
      promoted=self._against(after, policy.standing),
      noise=self.scores.noise(number),
      finished=number in self.state.finished_rounds,
    )

  def _trials(self, number: int, policy: Policy, after: dict[str, Any]) -> tuple[TrialRow, ...]:
    """Rows of a round's trials. after: the standing recipe that followed."""
    trials = self.state.of_round(number)
    anchors = []
    for trial in trials:
      if trial.axis == ANCHOR and trial.dev is not None:
        anchors.append(trial.dev['overall']['accuracy'])
    ranks = self.state.ranks.get(number, {})
    rows = []
    for trial in trials:
      assignment = policy.assignments[trial.worker]
      rows.append(
        TrialRow(
          trial=trial.trial,
          axis=trial.axis,
          anchor=trial.axis == ANCHOR,
          changes=self._changes(assignment, policy.standing),
          why=assignment.reason,
          status=trial.status,
          dev=None if trial.dev is None else measured(trial.dev['overall']),
          gain=self._gain(trial, anchors),
          external=self.scores.external(trial),
          promoted=_was_promoted(assignment, policy.standing, after),
          rank=ranks.get(trial.trial),
        )
      )
    return tuple(rows)

  def _gain(self, trial: TrialState, anchors: Sequence[float]) -> Gain | None:
    """The gain on dev over the mean of the round's anchors, with its 95% interval."""
    noise = self.scores.noise(trial.round)
    if trial.dev is None or trial.axis == ANCHOR or not anchors or noise is None:
      return None
    value = trial.dev['overall']['accuracy'] - sum(anchors) / len(anchors)
    # Two-sided, from what one recipe varies between seeds: the anchors' mean is uncertain too.
    half = (
      float(special.stdtrit(max(noise.degrees_of_freedom, 1), 0.975))
      * noise.seed_sd
      * math.sqrt(1 + 1 / len(anchors))
    )
    return gains.gain(value, Interval(value - half, value + half))

  def _chosen(self, number: int) -> Policy:
    """The round's policy with what its workers chose."""
    settings = CampaignSettings(**self.started['settings'])

    def recorded(round_: int, purpose: str) -> Recorded:
      return Recorded(settings.llm['attempts'], *self.state.conversation(round_, purpose))

    return with_choices(
      self.policies[number],
      self.constitution,
      recipe=self.started['recipe'],
      workers_choose=settings.workers_choose,
      dialogue=recorded,
    )

  def _fallbacks(self, number: int) -> list[str]:
    """Sentences about questions that were decided without the language model.

    They are about the round's workers, or about the policy that followed.
    """
    sentences = []
    for (round_, purpose), cause in self.state.fell_back.items():
      shown_in = round_
      if purpose in (POLICY, CONTROL):
        shown_in = round_ - 1
      if shown_in == number:
        sentences.append(f'without the language model ({purpose} of round {round_}): {cause}')
    return sentences

  @property
  def axes_changed(self) -> tuple[int, int]:
    """The fewest and the most axes that an explorer changed; (0, 0) before there is one."""
    counts = []
    for round_ in self.rounds:
      for trial in round_.trials:
        if not trial.anchor:
          selectors = {change.selector: None for change in trial.changes}
          counts.append(len(by_axis(selectors, self.constitution.space())))
    return min(counts, default=0), max(counts, default=0)

  # -- recipes -------------------------------------------------------------------------------------

  def _changes(self, assignment: Assignment, standing: dict[str, Any]) -> tuple[Change, ...]:
    changes = []
    for selector, value in sorted(assignment.changes.items()):
      changes.append(Change(selector, self._shown(standing, selector), render_value(value)))
    return tuple(changes)

  def _against(self, overlay: dict[str, Any], before: dict[str, Any]) -> tuple[Change, ...]:
    """The changes that `overlay` makes to the recipe under `before`."""
    changes = []
    for selector in sorted(overlay.keys() | before.keys()):
      default = self.defaults.get(selector)
      if overlay.get(selector, default) != before.get(selector, default):
        old = self._shown(before, selector)
        changes.append(Change(selector, old, self._shown(overlay, selector)))
    return tuple(changes)

  def _shown(self, overlay: dict[str, Any], selector: str) -> str:
    if selector in overlay:
      return render_value(overlay[selector])
    if selector in self.defaults:
      return render_value(self.defaults[selector])
    return 'default'

  @property
  def standing(self) -> dict[str, Any]:
    """The latest standing recipe: the promoted one once the rounds are over."""
    if not self.policies:
      return {}
    return self.policies[max(self.policies)].standing

  @property
  def promoted(self) -> tuple[Change, ...]:
    """The latest standing recipe against the starting one."""
    return self._against(self.standing, {})

  @property
  def dead_ends(self) -> list[DeadEndRow]:
    """The latest registry of dead ends.

    Returns:
      One row a dead end, in the registry's order; nothing before the first policy.
    """
    if not self.policies:
      return []
    latest = self.policies[max(self.policies)]
    rows = []
    for dead_end in latest.dead_ends:
      settings = sorted(dead_end.changes.items())
      rows.append(
        DeadEndRow(
          axis=dead_end.axis,
          changes=tuple(f'{selector} = {render_value(value)}' for selector, value in settings),
          gain=dead_end.gain,
          confidence=dead_end.confidence,
          round=dead_end.round,
          expires=dead_end.expires,
          holds=dead_end.expires >= latest.round,
        )
      )
    return rows

  @property
  def failures(self) -> list[Failure]:
    """Failed and interrupted attempts, and refusals.

    Returns:
      One row each, in the order in which they happened.
    """
    rows = []
    for record in self.records:
      payload = record.payload
      if record.kind == 'trial_failed':
        what = 'failed for good' if payload.get('final') else 'failed, tried again'
        cause = payload['cause']
        message = payload.get('message', '')
      elif record.kind == 'trial_refused':
        what = 'refused'
        cause = 'recipe refused'
        message = payload['cause']
      elif record.kind == 'trial_interrupted':
        what = 'interrupted, tried again'
        cause = payload['cause']
        message = payload['message']
      else:
        continue
      axis = self.state.trials[payload['trial']].axis
      rows.append(Failure(payload['trial'], axis, what, cause, message))
    return rows

  # -- families and rule kinds ---------------------------------------------------------------------

  @property
  def families(self) -> list[str]:
    """Families of the dev set, sorted; none before anything is scored."""
    return sorted(self._dev_summary().get('by_family', {}))

  @property
  def dev_kinds(self) -> set[str]:
    """Rule kinds that occur in dev, as family/kind."""
    return set(self._dev_summary().get('by_kind', {}))

  def _dev_summary(self) -> dict[str, Any]:
    if self.state.base:
      return self.state.base
    for trial in self.state.trials.values():
      if trial.dev is not None:
        return trial.dev
    return {}

  def family_gaps(self, family: str) -> list[FamilyGap]:
    """Compares both comparisons of answers on a family's dev items.

    Args:
      family: a family of the dev set.

    Returns:
      One row for every round with scored anchors, from their item results.
    """
    gaps = []
    for round_ in self.rounds:
      items = []
      for trial in round_.trials:
        if trial.anchor and trial.dev is not None:
          items += [item for item in self._items_on_dev(trial.trial) if item.family == family]
      if items:
        strict = sum(item.strict for item in items) / len(items)
        challenge = sum(item.challenge for item in items) / len(items)
        gaps.append(FamilyGap(round_.number, strict, challenge))
    return gaps

  def _items_on_dev(self, trial: str) -> list[ItemResult]:
    if trial not in self._dev_items:
      summary = self.state.trials[trial].dev
      self._dev_items[trial] = gains.read_items(self.run, trial, 'dev', summary)
    return self._dev_items[trial]

  def final_trials(self) -> list[TrialState]:
    """Returns the retrainings of the final, by worker."""
    return self.state.of_round(FINAL)


def _was_promoted(assignment: Assignment, before: dict[str, Any], after: dict[str, Any]) -> bool:
  """Whether the standing recipe changed and took over all that the trial changed."""
  if not assignment.changes or after == before:
    return False
  return all(after.get(selector) == value for selector, value in assignment.changes.items())
