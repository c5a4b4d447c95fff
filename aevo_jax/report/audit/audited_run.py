"""A run as its audit reads it: the ledger folded, and whatever can be derived from it derived
again.
"""

import functools
import hashlib
import json
import pathlib

from aevo_jax.campaign import decisions, setup
from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.settings import CampaignSettings
from aevo_jax.campaign.state import CampaignState, TrialState, fold
from aevo_jax.campaign.trial.gate import admit
from aevo_jax.campaign.trial.spec import EXPORT, TrialSpec
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import Binding
from aevo_jax.evaluation import probes as probes_lib
from aevo_jax.evaluation import scoring, sets
from aevo_jax.evaluation.servers import evaluator
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import Record
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.dialogue import Recorded
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.own_data import OwnTasks


class AuditedRun:
  """A run as its audit reads it; `problems` collects what the check in progress finds."""

  def __init__(self, run: pathlib.Path):
    self.run = run
    self.problems: list[str] = []
    self.broken: set[str] = set()  # trials whose seal does not hold
    self._items: dict[str, list[Item]] = {}
    self._external: dict[str, dict[str, dict]] = {}
    self._admitted: dict[str, tuple[Binding, ...]] = {}
    self.dialogues: dict[tuple[int, str], Recorded] = {}
    self._chosen: dict[int, Policy] = {}
    self._decided: dict[int, Policy] = {}
    self._evidence: dict[int, dict] = {}

  @functools.cached_property
  def records(self) -> list[Record]:
    return read(self.run / setup.LEDGER)

  @functools.cached_property
  def state(self) -> CampaignState:
    return fold(self.records)

  @property
  def started(self) -> dict:
    return self.state.started

  @functools.cached_property
  def settings(self) -> CampaignSettings:
    return CampaignSettings(**self.started['settings'])

  @functools.cached_property
  def constitution(self) -> Constitution:
    return constitution_lib.read(self.run / setup.CONSTITUTION)

  @functools.cached_property
  def inputs(self) -> dict:
    return json.loads((self.run / setup.INPUTS).read_text())

  @functools.cached_property
  def policies(self) -> dict[int, Policy]:
    return {
      round_: policy_lib.from_json(record['policy'])
      for round_, record in self.state.policies.items()
    }

  @functools.cached_property
  def secret(self) -> bytes:
    return bytes.fromhex(self.state.revealed['secrets']['holdout'])

  @property
  def manual(self) -> bool:
    """Whether somebody else scored it; runs from before that was possible do not say."""
    return self.started['settings'].get('arbiter') == 'manual'

  @property
  def last_round(self) -> int:
    return self.state.last_round(self.constitution.budget.rounds)

  @property
  def base(self) -> pathlib.Path:
    """The base as the file that evaluator and arbiter scored."""
    return self.run / 'base.safetensors'

  def base_file(self) -> str | None:
    """Digest of that file; None, which fits any, where it is known to be damaged: that is reported
    once, by the substrate's check.
    """
    return None if 'base' in self.broken else file_digest(self.base)

  @functools.cached_property
  def own(self) -> OwnTasks | None:
    """The run's frozen tasks of one's own, None where it has puzzles."""
    return sets.own_tasks(self.constitution, self.run / sets.TASKS)

  def items(self, split: str) -> list[Item]:
    """The items of 'dev', 'external' or 'final', drawn again."""
    if split not in self._items:
      self._items[split] = (
        sets.dev_items(self.constitution, self.own)
        if split == 'dev'
        else sets.private_items(self.constitution, split, self.secret, self.own)
      )
    return self._items[split]

  def admitted(self, overlay: str, round_: int) -> tuple[Binding, ...]:
    """What the gate makes of an overlay in a round; raises RecipeRefusedError."""
    constitution = self.constitution.in_round(round_)
    key = overlay, len(constitution.search_space.axes)
    if key not in self._admitted:  # the gate parses in a process of its own, which takes its time
      self._admitted[key] = admit(overlay, constitution, self.started['recipe'])
    return self._admitted[key]

  def expect(self, holds: bool, problem: str) -> None:
    """Adds a problem to those of the check in progress, unless `holds`."""
    if not holds:
      self.problems.append(problem)

  def sealed(self) -> list[TrialState]:
    return [t for t in self.state.trials.values() if t.status == 'sealed']

  def directory(self, trial: TrialState) -> pathlib.Path:
    return self.run / 'trials' / trial.trial

  def spec(self, trial: TrialState) -> TrialSpec:
    """The trial's input as the ledger has it."""
    return decisions.trial_spec(
      trial,
      self.constitution,
      recipe=self.started['recipe'],
      store=self.inputs['store'],
      substrate=self.started['substrate_object'],
      base_digest=self.started['base_digest'],
      threads=self.started['settings']['threads'],
      cache=self.inputs['cache'],
      locked=self.started['locked'],
    )

  def recomputed(self, name: str, split: str, weights: str | None) -> dict:
    """Summary of a score file, from its answers and regenerated items; whatever else the file says
    must agree. `weights`: digest of what was scored.
    """
    path = self.run / 'scores' / f'{name}.{split}.json'
    if not path.exists():
      self.problems.append(f'{path.name} is missing')
      return {}
    stored, items = json.loads(path.read_text()), self.items(split)
    rows = scoring.from_rows(stored['items'])
    self.expect(
      weights is None or stored['file_digest'] == weights, f'{path.name} is of other weights'
    )
    if [(row.family, row.kind) for row in rows] != [(item.family, item.kind) for item in items]:
      self.problems.append(f'{path.name} is not about the {len(items)} items of the {split} set')
      return {}
    results = [
      scoring.judge(item, row.answer, self.constitution.objective.verifier)
      for row, item in zip(rows, items)
    ]
    wrong = sum(a != b for a, b in zip(rows, results))
    self.expect(
      not wrong, f'{path.name}: {wrong} items are marked otherwise than their answers deserve'
    )
    summary = scoring.summary(results, self.constitution.objective.verifier)
    self.expect(
      stored['summary'] == summary, f'{path.name}: its summary is not that of its answers'
    )
    return summary

  @functools.cached_property
  def probes(self) -> dict[str, probes_lib.Probe]:
    """The constitution's probes, made again."""
    return probes_lib.build(self.constitution, self.own)

  def recomputed_probes(self, name: str, weights: str | None) -> dict:
    """Summaries of a candidate's probes from its answers; whatever else the file says must agree.
    `weights`: digest of what was scored.
    """
    path = evaluator.probes_path(self.run / 'scores' / f'{name}.dev.json')
    if not path.exists():
      self.problems.append(f'{path.name} is missing')
      return {}
    stored, dev = (
      json.loads(path.read_text()),
      json.loads((self.run / 'scores' / f'{name}.dev.json').read_text()),
    )
    self.expect(
      weights is None or stored['file_digest'] == weights, f'{path.name} is of other weights'
    )
    asked = {
      probe: [len(p.seeds[i]) if p.seeds else 1 for i in range(len(p.items))]
      for probe, p in self.probes.items()
    }
    if {probe: list(map(len, answers)) for probe, answers in stored['answers'].items()} != asked:
      self.problems.append(f'{path.name} does not answer the items of {", ".join(asked)}')
      return {}
    said = {
      probe: probes_lib.summary(
        p, stored['answers'][probe], [row[2] for row in dev['items']], self.constitution
      )
      for probe, p in self.probes.items()
    }
    self.expect(stored['summary'] == said, f'{path.name}: its summary is not that of its answers')
    return said

  # -- what the ledger's facts imply ---------------------------------------------------------------

  def dialogue(self, round_: int, purpose: str) -> Recorded:
    """The recorded conversation about one question to a language model."""
    return self.dialogues.setdefault(
      (round_, purpose),
      Recorded(self.settings.llm.get('attempts', 0), *self.state.conversation(round_, purpose)),
    )

  def chosen(self, round_: int) -> Policy:
    """A round's policy with what its workers chose, from the recorded replies."""
    if round_ not in self._chosen:
      self._chosen[round_] = decisions.with_choices(
        self.policies[round_],
        self.constitution,
        recipe=self.started['recipe'],
        workers_choose=self.settings.workers_choose,
        dialogue=self.dialogue,
      )
    return self._chosen[round_]

  def assignment(self, trial: TrialState) -> tuple[str, str, str] | None:
    """(axis, overlay text, name its seed is made of) of a trial, from the policies."""
    if trial.round == FINAL:
      last = self.policies.get(
        self.last_round + 1
      )  # until it is written, only the starting recipe is known
      found = [
        r
        for r in decisions.retrainings(
          last.standing if last else {}, self.constitution.budget.final_seeds, manual=self.manual
        )
        if (r.trial, r.worker) == (trial.trial, trial.worker) and (last or r.recipe == 'starting')
      ]
      return (found[0].recipe, found[0].overlay, found[0].seed_name) if found else None
    policy = self.chosen(trial.round)
    if trial.worker >= len(policy.assignments) or trial.trial != f'r{trial.round}w{trial.worker}':
      return None
    return policy.assignments[trial.worker].axis, policy.overlay(trial.worker), trial.trial

  def sealed_digest(self, trial: str) -> str:
    return next(
      r.payload['digest']
      for r in self.records
      if r.kind == 'trial_sealed' and r.payload['trial'] == trial
    )

  def which_changed(self, trial: TrialState, files: dict[str, str]) -> str:
    """Names the changed file where the ledger alone can tell."""
    known = {
      str(EXPORT): trial.export_file,
      'recipe.gin': trial.recipe,
      'overlay.gin': sha256(trial.overlay),
    }
    changed = [name for name, expected in known.items() if files.get(name) != expected]
    return (
      f': {", ".join(changed)} changed'
      if changed
      else ' (weights and recipe are; another file is not)'
    )

  def external(self, trial: str) -> dict[str, dict]:
    """Stream ('overall' or a family) -> {'correct', 'total', 'accuracy'} on the external set, from
    the answers; other faults of the file are the business of `check_external_scores`."""
    if trial in self._external:
      return self._external[trial]
    stored = json.loads((self.run / 'scores' / f'{trial}.external.json').read_text())['items']
    compare = verify.named(self.constitution.objective.verifier)
    right: dict[str, list[bool]] = {}
    for row, item in zip(stored, self.items('external'), strict=True):
      correct = compare(item.family, row[2], item.answer)
      for stream in ('overall', item.family):
        right.setdefault(stream, []).append(correct)
    self._external[trial] = {
      stream: {
        'correct': sum(marks),
        'total': len(marks),
        'accuracy': round(sum(marks) / len(marks), 6),
      }
      for stream, marks in right.items()
    }
    return self._external[trial]

  def evidence_path(self, round_: int) -> pathlib.Path:
    return self.run / 'evidence' / f'round_{round_:03d}.json'

  def rebuilt_evidence(self, round_: int) -> str:
    return decisions.evidence_text(
      decisions.round_evidence(self.state, round_, self.chosen(round_), self.constitution)
    )

  def decided_again(self, round_: int) -> Policy:
    """The policy that the recorded agent makes for a round after the first, from the recorded
    evidence and replies.
    """
    if round_ not in self._decided:
      history = [self.recorded_evidence(k) for k in range(round_)]
      self._decided[round_] = decisions.next_policy(
        history,
        self.policies[round_ - 1],
        self.constitution,
        recipe=self.started['recipe'],
        agent=self.settings.agent,
        campaign_seed=self.started['seed'],
        dialogue=self.dialogue,
      )
    return self._decided[round_]

  def recorded_evidence(self, round_: int) -> dict:
    """The evidence with the recorded digest, wherever it still is: rebuilt from the ledger, or in
    its file.
    """
    if round_ in self._evidence:
      return self._evidence[round_]
    text = self.rebuilt_evidence(round_)
    if sha256(text) != self.state.evidence[round_]:
      text = self.evidence_path(round_).read_text()
    if sha256(text) != self.state.evidence[round_]:
      raise ValueError(f'the evidence of round {round_} with the recorded digest is lost')
    self._evidence[round_] = json.loads(text)
    return self._evidence[round_]


def sha256(text: str) -> str:
  """Hex digest of a text."""
  return hashlib.sha256(text.encode()).hexdigest()
