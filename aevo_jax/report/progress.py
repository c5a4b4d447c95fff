"""Live progress of a campaign: a table on a terminal, one line an event elsewhere."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.ledger.records import Record
from aevo_jax.meta_agent.llm.agent import CONTROL, POLICY

REFRESH_SECONDS = 0.5


def score_text(summary: dict | None) -> str:
  """Writes an accuracy with its 95% interval.

  Args:
    summary: of a set, None where it is not scored.

  Returns:
    For example '0.412 [0.384, 0.440]'; '' without a summary.
  """
  if summary is None:
    return ''
  overall = summary['overall']
  return f'{overall["accuracy"]:.3f} [{overall["low"]:.3f}, {overall["high"]:.3f}]'


class Progress:
  """An observer of the campaign; use as a context manager.

  Attributes:
    state: the state after the records seen so far.
  """

  def __init__(self, constitution: Constitution, state: CampaignState | None = None):
    self.state = state or CampaignState()
    self._constitution = constitution
    self._console = Console(stderr=False)
    self._live: Live | None = None
    if self._console.is_terminal:
      self._live = Live(console=self._console, auto_refresh=False, transient=True)
    self._begun = time.monotonic()
    self._drawn = 0.0
    self._running: dict[str, float] = {}
    self._trained = 0

  def __enter__(self) -> 'Progress':
    if self._live:
      self._live.start()
    return self

  def __exit__(self, *exc) -> None:
    if self._live:
      self._live.stop()

  def __call__(self, record: Record | None) -> None:
    """Takes a new record, or None while waiting."""
    if record is not None:
      self.state.apply(record)
      self._follow(record)
      line = describe(record)
      if line:
        console = self._live.console if self._live else self._console
        console.print(line, highlight=False)
        sys.stdout.flush()
    if self._live and time.monotonic() - self._drawn > REFRESH_SECONDS:
      self._drawn = time.monotonic()
      self._live.update(self._table(), refresh=True)

  def _follow(self, record: Record) -> None:
    if record.kind == 'trial_started':
      self._running[record.payload['trial']] = time.monotonic()
    elif record.kind in ('trial_sealed', 'trial_failed', 'trial_refused', 'trial_interrupted'):
      self._running.pop(record.payload['trial'], None)
      self._trained += record.kind == 'trial_sealed'

  def time_left(self) -> float | None:
    """Estimates the seconds to the end at the present pace.

    Returns:
      Seconds, None before the first trial has finished.
    """
    if not self._trained:
      return None
    budget = self._constitution.budget
    total = budget.noise_seeds + budget.rounds * budget.workers + 2 * budget.final_seeds
    done = sum(t.done for t in self.state.trials.values())
    return (time.monotonic() - self._begun) / self._trained * (total - done)

  def _table(self) -> Table:
    rounds = self._constitution.budget.rounds
    current = len(self.state.finished_rounds)
    phase = f'round {current} of {rounds}'
    if current > rounds:
      current = FINAL
      phase = 'final'
    left = self.time_left()
    time_text = 'estimating the time left'
    if left is not None:
      time_text = f'about {left / 60:.1f} min left'
    table = Table(title=f'{phase}, {time_text}')
    for column in ('trial', 'axis', 'state', 'dev [95%]', 'external'):
      table.add_column(column)
    for trial in self.state.of_round(current):
      self._add_row(table, trial)
    if current != FINAL:
      for trial in self.state.of_round(FINAL):
        if trial.trial in self._running:
          self._add_row(table, trial)
    return table

  def _add_row(self, table: Table, trial: TrialState) -> None:
    external = '' if trial.released is None else f'{trial.released:.2f}'
    table.add_row(trial.trial, trial.axis, self._phase(trial), score_text(trial.dev), external)

  def _phase(self, trial: TrialState) -> str:
    if trial.trial in self._running:
      return f'training {time.monotonic() - self._running[trial.trial]:.0f} s'
    if trial.status == 'sealed' and trial.dev is None and trial.round != FINAL:
      return 'scoring'
    return 'waiting' if trial.status == 'assigned' else trial.status


def describe(record: Record) -> str:
  """Writes a record as a line.

  Args:
    record: any record of a campaign.

  Returns:
    A line, or a few, for records that a person wants to see; '' for the others.
  """
  writer = _WRITERS.get(record.kind)
  if writer is None:
    return ''
  return writer(record.payload)


def _started(p: dict) -> str:
  confinement = 'workers confined'
  if not p['locked']:
    confinement = 'workers NOT confined (see `aevo doctor`)'
  return (
    f'campaign started: constitution {p["constitution"][:12]}, substrate '
    f'{p["substrate"][:12]}, seed {p["seed"]}, {p["slots"]} processes at a time, {confinement}'
  )


def _failed(p: dict) -> str:
  line = f'{p["trial"]:<18} failed: {p["cause"]}'
  if not p['final']:
    line += ', trying again'
  return line


def _decided(p: dict) -> str:
  reasons = p['reasons'] or ['no change beyond the noise floor']
  return '\n'.join([f'-- after round {p["round"]}:', *(f'   {reason}' for reason in reasons)])


def _final_scored(p: dict) -> str:
  scores = sorted(p['scores'].items())
  return '\n'.join(f'{name:<18} final {score_text(score)}' for name, score in scores)


def _exchange(p: dict) -> str:
  usage = p['usage']
  outcome = (
    f'answered ({usage["tokens_in"]} tokens in, {usage["tokens_out"]} out, {p["seconds"]:.1f} s)'
  )
  if p['error']:
    outcome = f'{p["error"]}: {p["detail"]}'
  return f'round {p["round"]}, {p["purpose"]:<9} language model: {outcome}'


def _fell_back(p: dict) -> str:
  instead = 'it runs what it was assigned'
  if p['purpose'] in (POLICY, CONTROL):
    instead = 'the statistical agent takes the round'
  return (
    f'round {p["round"]}, {p["purpose"]:<9} without the language model, {instead}: {p["cause"]}'
  )


# Kind of a record -> how its payload reads.
_WRITERS: dict[str, Callable[[dict], str]] = {
  'campaign_started': _started,
  'base_scored': lambda p: f'base               dev {score_text(p["score"])}',
  'trial_scored': lambda p: f'{p["trial"]:<18} dev {score_text(p["score"])}',
  'trial_failed': _failed,
  'trial_interrupted': lambda p: f'{p["trial"]:<18} interrupted: {p["message"]}, trying again',
  'trial_refused': lambda p: f'{p["trial"]:<18} refused: {p["cause"]}',
  'external_released': lambda p: f'{p["trial"]:<18} external {p["score"]:.2f}',
  'promotion_decided': _decided,
  'submission_exported': lambda p: f'{p["trial"]:<18} exported as a submission',
  'scores_waived': lambda p: f'going on without a score of {", ".join(p["trials"])}: {p["cause"]}',
  'budget_exhausted': lambda p: f'the rounds end after round {p["round"]}: {p["reason"]}',
  'final_scored': _final_scored,
  'llm_exchange': _exchange,
  'agent_fell_back': _fell_back,
  'campaign_paused': lambda p: f'paused: {p["message"]}',
  'controller_resumed': lambda p: 'resumed',
}
