"""Scores of trials as far as they may be known.

Before the reveal those are dev scores and the external scores that the arbiter released (two
decimals), afterwards all.
"""

import math
import pathlib
from typing import Any

from scipy import special

from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift.proxies import WEAKER
from aevo_jax.meta_agent.evidence import Evidence, EvidenceError, Noise
from aevo_jax.report import gains
from aevo_jax.report.gains import ScoreFileError
from aevo_jax.report.rows import Judgement, Measured, ProxyVerdict
from aevo_jax.stats.intervals import Interval, clipped, wilson

_EXPECTED = ('undetermined', 'coupled')  # verdicts that need no row


def measured(proportion: dict[str, Any]) -> Measured:
  """Reads an accuracy with its interval.

  Args:
    proportion: one of a score summary, with 'accuracy', 'low' and 'high'.

  Returns:
    The three as a record.
  """
  return Measured(proportion['accuracy'], proportion['low'], proportion['high'])


class KnownScores:
  """The scores of one run, read from its ledger, its evidence and its score files.

  Raises:
    ScoreFileError: from every method that reads a file which is missing or unreadable.
  """

  def __init__(
    self, run: pathlib.Path, state: CampaignState, constitution: Constitution, *, manual: bool
  ):
    self._run = run
    self._state = state
    self._constitution = constitution
    self._manual = manual
    self._evidence: dict[int, Evidence] = {}

  @property
  def proxies_only(self) -> bool:
    """Whether there is no external target, and the consensus of the proxies stands in its place."""
    return self._constitution.objective.target == 'proxies'

  def external(self, trial: TrialState) -> Measured | None:
    """Finds a trial's external score.

    Args:
      trial: any trial of a round.

    Returns:
      The score, or the consensus where there is no external target; None where it is not known.
    """
    if self.proxies_only:
      return self._consensus(trial)
    if self._state.revealed is not None and trial.external_scored:
      return measured(gains.revealed_summary(self._run, trial.trial, 'external')['overall'])
    if trial.released is None:
      return None
    if self._manual:
      # Nobody said of how many items it is.
      return Measured(trial.released, trial.released, trial.released, exact=False)
    items = self._constitution.external_set.items
    return Measured(trial.released, *wilson(round(trial.released * items), items), exact=False)

  def external_accuracy(self, trial: TrialState, stream: str) -> float | None:
    """Finds a trial's external accuracy in one stream.

    Args:
      trial: any trial of a round.
      stream: a family or 'overall'.

    Returns:
      The accuracy, None where it is not known or the set has no such family.
    """
    if self._state.revealed is not None and trial.external_scored:
      summary = gains.revealed_summary(self._run, trial.trial, 'external')
      proportion = summary['by_family'].get(stream)
      if stream == 'overall':
        proportion = summary['overall']
      return None if proportion is None else proportion['accuracy']
    if trial.released is None or stream == 'overall':
      return trial.released
    accuracy_and_items = (trial.released_families or {}).get(stream, [None])
    return accuracy_and_items[0]

  def noise(self, round_: int) -> Noise | None:
    """Reads the noise floor.

    Args:
      round_: any round.

    Returns:
      The noise floor as the round's evidence has it, None before there is any.
    """
    if round_ not in self._state.evidence:
      return None
    return self._read_evidence(round_).noise

  def judgements(self) -> list[Judgement]:
    """Reads how the proxies were judged.

    Returns:
      Without an external target, one judgement for every round with verdicts; else nothing.
    """
    if not self.proxies_only:
      return []
    judgements = []
    for round_ in sorted(self._state.evidence):
      judgement = self._judgement(round_)
      if judgement is not None:
        judgements.append(judgement)
    return judgements

  def _judgement(self, round_: int) -> Judgement | None:
    judged = self._read_evidence(round_).proxies.judgement
    verdicts = []
    for stream, parts in judged.verdicts.items():
      for proxy, verdict in parts.items():
        trust = judged.trust[proxy][stream]
        verdicts.append(ProxyVerdict(stream, proxy, verdict.verdict, trust, verdict.why))
    if not verdicts:
      return None
    coupled = sum(v.verdict == 'coupled' for v in verdicts)
    return Judgement(
      round=round_,
      evidence=WEAKER,
      departures=tuple(v for v in verdicts if v.verdict not in _EXPECTED),
      nothing=f'nobody departs: of {len(verdicts)} comparisons {coupled} are coupled, the '
      'others undetermined',
    )

  def _consensus(self, trial: TrialState) -> Measured | None:
    """The consensus of the proxies, with the interval that the luck of the items gives."""
    if trial.round not in self._state.evidence:
      return None
    rows = {row.trial: row for row in self._read_evidence(trial.round).trials}
    row = rows.get(trial.trial)
    if row is None or row.external is None:
      return None
    value = row.external
    variances = [parts['overall'][1] for parts in row.proxies.values() if 'overall' in parts]
    half = float(special.ndtri(0.975)) * math.sqrt(sum(variances)) / len(variances)
    return Measured(value, *clipped(Interval(value - half, value + half), 0.0, 1.0))

  def _read_evidence(self, round_: int) -> Evidence:
    """A round's evidence; without an external target it has what the proxies say."""
    if round_ in self._evidence:
      return self._evidence[round_]
    path = self._run / 'evidence' / f'round_{round_:03d}.json'
    try:
      evidence = Evidence.from_json(path.read_text())
      if self.proxies_only and evidence.proxies is None:
        raise EvidenceError('it does not say what the proxies say of each other')
    except (OSError, ValueError) as error:
      raise ScoreFileError(
        f'{path} cannot be read as evidence ({type(error).__name__}: {error}); see `aevo '
        f'audit {self._run}`'
      ) from None
    self._evidence[round_] = evidence
    return evidence
