"""Live progress of a campaign: a table on a terminal, one line an event elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.ledger.records import Record
from aevo_jax.meta_agent.llm.agent import CONTROL, POLICY

REFRESH_SECONDS = 0.5


def score_text(summary: dict | None) -> str:
  """accuracy with its 95% interval, e.g. `.412 [.384, .440]`."""
  if summary is None:
    return ''
  overall = summary['overall']
  return f'{overall["accuracy"]:.3f} [{overall["low"]:.3f}, {overall["high"]:.3f}]'


class Progress:
  """An observer of the campaign; use as a context manager."""

  def __init__(self, constitution: Constitution, state: CampaignState | None = None):
    self._constitution, self.state = constitution, state or CampaignState()
    self._console = Console(stderr=False)
    self._live = (
      Live(console=self._console, auto_refresh=False, transient=True)
      if self._console.is_terminal
      else None
    )
    self._begun, self._drawn = time.monotonic(), 0.0
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
        (self._live.console if self._live else self._console).print(line, highlight=False)
        sys.stdout.flush()
    if self._live and time.monotonic() - self._drawn > REFRESH_SECONDS:
      self._drawn = time.monotonic()
      self._live.update(self._table(), refresh=True)

  def _follow(self, record: Record) -> None:
    if record.kind == 'trial_started':
      self._running[record.payload['trial']] = time.monotonic()
    elif record.kind in ('trial_sealed', 'trial_failed', 'trial_refused'):
      self._running.pop(record.payload['trial'], None)
      self._trained += record.kind == 'trial_sealed'

  def time_left(self) -> float | None:
    """Seconds to the end at the present pace; None before the first trial has finished."""
    budget = self._constitution.budget
    total = budget.noise_seeds + budget.rounds * budget.workers + 2 * budget.final_seeds
    done = sum(t.done for t in self.state.trials.values())
    return (
      (time.monotonic() - self._begun) / self._trained * (total - done) if self._trained else None
    )

  def _table(self) -> Table:
    left = self.time_left()
    round_ = len(self.state.finished_rounds)
    current = FINAL if round_ > self._constitution.budget.rounds else round_
    phase = (
      'final' if current == FINAL else f'round {current} of {self._constitution.budget.rounds}'
    )
    table = Table(
      title=f'{phase}, '
      + ('estimating the time left' if left is None else f'about {left / 60:.1f} min left')
    )
    for column in ('trial', 'axis', 'state', 'dev [95%]', 'external'):
      table.add_column(column)
    early = [t for t in self.state.of_round(FINAL) if t.trial in self._running and current != FINAL]
    for trial in (*self.state.of_round(current), *early):
      table.add_row(
        trial.trial,
        trial.axis,
        self._phase(trial),
        score_text(trial.dev),
        '' if trial.released is None else f'{trial.released:.2f}',
      )
    return table

  def _phase(self, trial: TrialState) -> str:
    if trial.trial in self._running:
      return f'training {time.monotonic() - self._running[trial.trial]:.0f} s'
    if trial.status == 'sealed' and trial.dev is None and trial.round != FINAL:
      return 'scoring'
    return 'waiting' if trial.status == 'assigned' else trial.status


def describe(record: Record) -> str:
  """One line for the records a person wants to see, '' for the others."""
  p = record.payload
  match record.kind:
    case 'campaign_started':
      return (
        f'campaign started: constitution {p["constitution"][:12]}, substrate '
        f'{p["substrate"][:12]}, seed {p["seed"]}, {p["slots"]} processes at a time, '
      ) + ('workers confined' if p['locked'] else 'workers NOT confined (see `aevo doctor`)')
    case 'base_scored':
      return f'base               dev {score_text(p["score"])}'
    case 'trial_scored':
      return f'{p["trial"]:<18} dev {score_text(p["score"])}'
    case 'trial_failed':
      return f'{p["trial"]:<18} failed: {p["cause"]}{"" if p["final"] else ", trying again"}'
    case 'trial_refused':
      return f'{p["trial"]:<18} refused: {p["cause"]}'
    case 'external_released':
      return f'{p["trial"]:<18} external {p["score"]:.2f}'
    case 'promotion_decided':
      return '\n'.join(
        [f'-- after round {p["round"]}:']
        + [f'   {reason}' for reason in p['reasons'] or ['no change beyond the noise floor']]
      )
    case 'submission_exported':
      return f'{p["trial"]:<18} exported as a submission'
    case 'scores_waived':
      return f'going on without a score of {", ".join(p["trials"])}: {p["cause"]}'
    case 'budget_exhausted':
      return f'the rounds end after round {p["round"]}: {p["reason"]}'
    case 'final_scored':
      return '\n'.join(
        f'{name:<18} final {score_text(s)}' for name, s in sorted(p['scores'].items())
      )
    case 'llm_exchange':
      cost = (
        f'{p["usage"]["tokens_in"]} tokens in, {p["usage"]["tokens_out"]} out, {p["seconds"]:.1f} s'
      )
      return f'round {p["round"]}, {p["purpose"]:<9} language model: ' + (
        f'{p["error"]}: {p["detail"]}' if p['error'] else f'answered ({cost})'
      )
    case 'agent_fell_back':
      instead = (
        'the statistical agent takes the round'
        if p['purpose'] in (POLICY, CONTROL)
        else 'it runs what it was assigned'
      )
      return (
        f'round {p["round"]}, {p["purpose"]:<9} without the language model, {instead}: {p["cause"]}'
      )
    case 'controller_resumed':
      return 'resumed'
  return ''
