"""A run as its audit reads it: the ledger folded, and what follows from it computed again."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.next_policy import next_policy, with_choices
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState, fold
from aevo_jax.campaign.setup import setup
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.campaign.trial.gate import admit
from aevo_jax.campaign.trial.spec import EXPORT, TrialSpec
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import Binding
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.evaluation import probes as probes_lib
from aevo_jax.evaluation import sets
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import Record
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm.dialogue import Recorded
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.substrate import build
from aevo_jax.substrate.manifest import SubstrateManifest
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.own_data import OwnTasks

BASE = 'base'  # the base's name in `AuditedRun.broken` and among score files
Measure = Callable[[pathlib.Path, pathlib.Path], SubstrateManifest]


class AuditedRun:
  """A run as its audit reads it; everything is read or computed once, when it is first needed.

  Attributes:
    path: the run directory.
    measure: measures the substrate of this checkout, given its folder and the package's root.
    parse: reads what agents wrote, by default in a process of its own.
    problems: the problems that the check in progress has found.
    broken: trials with a seal that does not hold, and 'base' where another base was scored.
    dialogues: (round, purpose) -> the recorded conversation with a language model.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    measure: Measure = build.measure,
    parse: Parser = parse_untrusted,
  ):
    self.path = path
    self.measure = measure
    self.parse = parse
    self.problems: list[str] = []
    self.broken: set[str] = set()
    self.dialogues: dict[tuple[int, str], Recorded] = {}
    self._items: dict[str, list[Item]] = {}
    self._answers: dict[tuple[str, str], dict[str, str]] = {}
    self._admitted: dict[tuple[str, int], tuple[Binding, ...]] = {}
    self._chosen: dict[int, Policy] = {}
    self._decided: dict[int, Policy] = {}
    self._evidence: dict[int, Evidence] = {}

  def expect(self, holds: object, problem: str) -> None:
    """Adds a problem to those of the check in progress, unless `holds`.

    Args:
      holds: the expectation, as a truth value.
      problem: a clause that says what is wrong, without a full stop.
    """
    if not holds:
      self.problems.append(problem)

  # -- the ledger and the files beside it ----------------------------------------------------------

  @functools.cached_property
  def records(self) -> list[Record]:
    """The ledger's records, their hash chain verified."""
    return read(self.path / setup.LEDGER)

  @functools.cached_property
  def state(self) -> CampaignState:
    """The state after the last record."""
    return fold(self.records)

  @property
  def started(self) -> dict:
    """The payload of the first record, campaign_started."""
    return self.state.started

  @functools.cached_property
  def settings(self) -> CampaignSettings:
    """The campaign's settings as the first record has them."""
    return CampaignSettings(**self.started['settings'])

  @functools.cached_property
  def constitution(self) -> Constitution:
    """The constitution's file; `checks` compares its digest with the first record first."""
    return constitution_lib.read(self.path / setup.CONSTITUTION)

  @functools.cached_property
  def inputs(self) -> dict:
    """inputs.json, which no record but the first confirms."""
    return json.loads((self.path / setup.INPUTS).read_text())

  @functools.cached_property
  def policies(self) -> dict[int, Policy]:
    """Round -> its recorded policy, before its workers chose."""
    policies = {}
    for round_, record in self.state.policies.items():
      policies[round_] = policy_lib.from_json(record['policy'])
    return policies

  @functools.cached_property
  def secret(self) -> bytes:
    """The revealed secret of the holdout."""
    return bytes.fromhex(self.state.revealed['secrets']['holdout'])

  @property
  def manual(self) -> bool:
    """Whether somebody else scored it; runs from before that was possible do not say."""
    return self.started['settings'].get('arbiter') == 'manual'

  @property
  def last_round(self) -> int:
    """The last round that was run."""
    return self.state.last_round(self.constitution.budget.rounds)

  def sealed(self) -> list[TrialState]:
    """Returns the sealed trials in the order of their assignment."""
    return [t for t in self.state.trials.values() if t.status == 'sealed']

  def payloads(self, kind: str) -> list[dict]:
    """Reads the ledger.

    Args:
      kind: a kind of record.

    Returns:
      The payloads of all records of that kind, in order.
    """
    return [record.payload for record in self.records if record.kind == kind]

  def sealed_digest(self, trial: str) -> str:
    """Finds the digest that a trial was sealed with.

    Args:
      trial: name of a sealed trial.

    Returns:
      The digest of its first trial_sealed record. Raises StopIteration without one.
    """
    return next(p['digest'] for p in self.payloads('trial_sealed') if p['trial'] == trial)

  def trial_directory(self, trial: TrialState) -> pathlib.Path:
    """Returns the folder that the trial's worker wrote."""
    return self.path / 'trials' / trial.trial

  def which_changed(self, trial: TrialState, files: dict[str, str]) -> str:
    """Names the changed file of a trial where the ledger alone can tell.

    Args:
      trial: a sealed trial.
      files: path in its folder -> digest, as measured.

    Returns:
      The end of a sentence that says that the trial is not what was sealed.
    """
    known = {
      str(EXPORT): trial.export_file,
      'recipe.gin': trial.recipe,
      'overlay.gin': sha256(trial.overlay),
    }
    changed = [name for name, expected in known.items() if files.get(name) != expected]
    if not changed:
      return ' (weights and recipe are; another file is not)'
    return f': {", ".join(changed)} changed'

  # -- the base and the sets -----------------------------------------------------------------------

  @property
  def base(self) -> pathlib.Path:
    """The base as the file that evaluator and arbiter scored."""
    return self.path / 'base.safetensors'

  def base_file(self) -> str | None:
    """Measures the file of the base.

    Returns:
      Its digest. None, which fits any, where it is known to be damaged: the substrate's check
      reports that once.
    """
    if BASE in self.broken:
      return None
    return file_digest(self.base)

  @functools.cached_property
  def own_tasks(self) -> OwnTasks | None:
    """The run's frozen tasks, None where it has puzzles."""
    return sets.own_tasks(self.constitution, self.path / sets.TASKS)

  @functools.cached_property
  def probes(self) -> dict[str, probes_lib.Probe]:
    """The constitution's probes, built again."""
    return probes_lib.build(self.constitution, self.own_tasks)

  def items(self, split: str) -> list[Item]:
    """Draws an evaluation set again.

    Args:
      split: 'dev', 'external' or 'final'; the last two need the revealed secret.

    Returns:
      Its items in their order.
    """
    if split in self._items:
      return self._items[split]
    if split == 'dev':
      items = sets.dev_items(self.constitution, self.own_tasks)
    else:
      items = sets.private_items(self.constitution, split, self.secret, self.own_tasks)
    self._items[split] = items
    return items

  def external(self, trial: str) -> dict[str, dict]:
    """Computes a trial's external scores from its answers.

    The check of external scores reports all other faults of the file.

    Args:
      trial: name of a trial that was scored on the external set.

    Returns:
      Stream ('overall' or a family) -> {'correct', 'total', 'accuracy'}.
    """
    marks = self.answers(trial, 'external')
    scores = {'overall': _share(''.join(marks.values()))}
    for family, of_family in marks.items():
      scores[family] = _share(of_family)
    return scores

  def answers(self, trial: str, split: str) -> dict[str, str]:
    """Compares a trial's answers with the keys again.

    The checks of scores report all other faults of the file.

    Args:
      trial: name of a trial that was scored on the set.
      split: 'dev' or 'external'.

    Returns:
      Family -> 0 and 1 of its items in their order.
    """
    if (trial, split) in self._answers:
      return self._answers[trial, split]
    stored = json.loads((self.path / 'scores' / f'{trial}.{split}.json').read_text())['items']
    compare = verify.named(self.constitution.objective.verifier)
    marks: dict[str, list[str]] = {}
    for row, item in zip(stored, self.items(split), strict=True):
      correct = compare(item.family, row[2], item.answer)
      marks.setdefault(item.family, []).append('1' if correct else '0')
    answers = {family: ''.join(of_family) for family, of_family in sorted(marks.items())}
    self._answers[trial, split] = answers
    return answers

  # -- recipes -------------------------------------------------------------------------------------

  def admitted(self, overlay: str, round_: int) -> tuple[Binding, ...]:
    """Passes an overlay through the gate again.

    Args:
      overlay: the text that an agent wrote.
      round_: the round, which decides the search space.

    Returns:
      The bindings that the gate admits. Raises RecipeRefusedError where it refuses the text.
    """
    constitution = self.constitution.in_round(round_)
    key = (overlay, len(constitution.search_space.axes))
    # A process for every overlay takes its time.
    if key not in self._admitted:
      self._admitted[key] = admit(overlay, constitution, self.started['recipe'], parse=self.parse)
    return self._admitted[key]

  def spec(self, trial: TrialState) -> TrialSpec:
    """Returns the trial's input as the ledger has it."""
    conditions = decisions.TrialConditions(
      recipe=self.started['recipe'],
      store=self.inputs['store'],
      substrate=self.started['substrate_object'],
      base_digest=self.started['base_digest'],
      threads=self.started['settings']['threads'],
      cache=self.inputs['cache'],
      locked=self.started['locked'],
    )
    return decisions.trial_spec(trial, self.constitution, conditions)

  # -- evidence and policies -----------------------------------------------------------------------

  def dialogue(self, round_: int, purpose: str) -> Recorded:
    """Finds the recorded conversation about one question to a language model.

    Args:
      round_: the round that the question was about.
      purpose: the question's name in the ledger.

    Returns:
      The conversation, which answers as it did in the run.
    """
    key = (round_, purpose)
    if key not in self.dialogues:
      attempts = self.settings.llm.get('attempts', 0)
      self.dialogues[key] = Recorded(attempts, *self.state.conversation(round_, purpose))
    return self.dialogues[key]

  def chosen(self, round_: int) -> Policy:
    """Adds what its workers chose to a round's policy.

    Args:
      round_: a round that has a policy.

    Returns:
      The policy with the bindings that the recorded replies give.
    """
    if round_ not in self._chosen:
      self._chosen[round_] = with_choices(
        self.policies[round_],
        self.constitution,
        recipe=self.started['recipe'],
        workers_choose=self.settings.workers_choose,
        dialogue=self.dialogue,
        parse=self.parse,
      )
    return self._chosen[round_]

  def evidence_path(self, round_: int) -> pathlib.Path:
    """Returns the file of a round's evidence."""
    return self.path / 'evidence' / f'round_{round_:03d}.json'

  def rebuilt_evidence(self, round_: int) -> str:
    """Builds a round's evidence from the ledger's records.

    Args:
      round_: a round that has evidence.

    Returns:
      The text of its file.
    """
    chosen = self.chosen(round_)
    return round_evidence(self.state, round_, chosen, self.constitution).to_text()

  def recorded_evidence(self, round_: int) -> Evidence:
    """Finds the evidence with the recorded digest: rebuilt from the ledger, or in its file.

    Args:
      round_: a round that has evidence.

    Returns:
      The evidence. Raises ValueError where neither text has the digest.
    """
    if round_ in self._evidence:
      return self._evidence[round_]
    digest = self.state.evidence[round_]
    text = self.rebuilt_evidence(round_)
    if sha256(text) != digest:
      text = self.evidence_path(round_).read_text()
    if sha256(text) != digest:
      raise ValueError(f'the evidence of round {round_} with the recorded digest is lost')
    self._evidence[round_] = Evidence.from_json(text)
    return self._evidence[round_]

  def decided_again(self, round_: int) -> Policy:
    """Lets the recorded agent decide again, from the recorded evidence and replies.

    Args:
      round_: a round after the first.

    Returns:
      The policy that it makes for the round.
    """
    if round_ not in self._decided:
      history = [self.recorded_evidence(k) for k in range(round_)]
      self._decided[round_] = next_policy(
        history,
        self.policies[round_ - 1],
        self.constitution,
        recipe=self.started['recipe'],
        agent=self.settings.agent,
        campaign_seed=self.started['seed'],
        dialogue=self.dialogue,
        parse=self.parse,
      )
    return self._decided[round_]


def _share(marks: str) -> dict:
  correct = marks.count('1')
  return {
    'correct': correct,
    'total': len(marks),
    'accuracy': round(correct / len(marks), 6),
  }


def sha256(text: str) -> str:
  """Returns the hex digest of a text in UTF-8."""
  return hashlib.sha256(text.encode()).hexdigest()
