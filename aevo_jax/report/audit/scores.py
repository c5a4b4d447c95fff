"""Score files: dev, probe, external and final scores and ranks, from the answers in the files."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.evaluation import probes as probes_lib
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.probes import Probe
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers import score_files
from aevo_jax.report.audit.audited_run import BASE, AuditedRun
from aevo_jax.report.audit.findings import NotYetError
from aevo_jax.tasks.item import Item


class Scored(NamedTuple):
  """One scored candidate. weights: digest of its file, None for any. summary: the ledger's."""

  name: str
  weights: str | None
  summary: dict


def check_dev_scores(run: AuditedRun) -> str:
  """Checks dev scores from the answers, against the dev set drawn again.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of scores and of answers behind them.

  Raises:
    NotYetError: nothing is scored yet.
  """
  scored = [Scored(t.trial, t.export_file, t.dev) for t in _with_dev(run)]
  if run.state.base is not None:
    scored.append(Scored(BASE, run.base_file(), run.state.base))
  if not scored:
    raise NotYetError('nothing is scored yet')
  for candidate in scored:
    before = len(run.problems)
    summary = recomputed(run, 'dev', candidate)
    run.expect(
      len(run.problems) > before or summary == candidate.summary,
      f"{candidate.name}: the ledger's dev score is not that of the answers",
    )
  answers = len(scored) * len(run.items('dev'))
  return f'{len(scored)} dev scores recomputed from {answers} answers'


def check_probes(run: AuditedRun) -> str:
  """Checks probe scores from the answers, against the probes built again.

  Consensus, verdicts and trust are part of the evidence, which is rebuilt from the scores.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The probes, and the number of candidates and of answers behind their scores.

  Raises:
    NotYetError: nothing is scored yet.
  """
  if not run.probes:
    return 'the constitution has none'
  scored = [Scored(t.trial, t.export_file, t.probes) for t in _with_dev(run)]
  if run.state.base is not None:
    scored.append(Scored(BASE, run.base_file(), run.state.base_probes))
  if not scored:
    raise NotYetError('nothing is scored yet')
  for candidate in scored:
    before = len(run.problems)
    summaries = recomputed_probes(run, candidate)
    run.expect(
      len(run.problems) > before or summaries == candidate.summary,
      f"{candidate.name}: the ledger's probe scores are not those of the answers",
    )
  answers = 0
  for probe in run.probes.values():
    answers += len(scored) * sum(answers_expected(probe))
  return f'{", ".join(run.probes)} of {len(scored)} candidates recomputed from {answers} answers'


def check_external_scores(run: AuditedRun) -> str:
  """Checks external scores from the answers, against the set drawn with the revealed secret.

  Args:
    run: a run with a revealed secret that holds.

  Returns:
    The number of scores and of items.
  """
  scored = [t for t in run.state.trials.values() if t.external_scored]
  if run.constitution.objective.target == 'proxies':
    run.expect(
      not scored and not run.state.ranks,
      'there is no external target, and external scores are recorded',
    )
    return 'no external target: nothing was scored, ranked or released'
  for trial in scored:
    recomputed(run, 'external', Scored(trial.trial, trial.export_file, {}))
  return f'{len(scored)} external scores recomputed on {len(run.items("external"))} items'


def check_ranks(run: AuditedRun) -> str:
  """Checks within-round ranks, the coin that breaks ties included; earlier versions told them.

  Args:
    run: a run with a revealed secret that holds, or with scores that were handed in.

  Returns:
    The number of rounds.
  """
  for round_, ranks in run.state.ranks.items():
    accuracies = {}
    for trial in run.state.of_round(round_):
      if run.manual and trial.submitted is not None:
        accuracies[trial.trial] = trial.submitted
      elif not run.manual and trial.external_scored:
        accuracies[trial.trial] = run.external(trial.trial)['overall']['accuracy']
    run.expect(
      ranks == _ranked(accuracies, decisions.tie_seed(run.started['seed'], round_)),
      f'round {round_} was ranked otherwise',
    )
  return f'{len(run.state.ranks)} rounds ranked as recorded, ties included'


def _ranked(accuracies: Mapping[str, float], seed: int) -> dict[str, int]:
  """trial -> rank, 0 = lowest; a coin that does not depend on the order breaks ties."""
  coin = random.Random(seed)
  keys = {trial: (accuracies[trial], coin.random()) for trial in sorted(accuracies)}
  order = sorted(keys, key=lambda trial: (*keys[trial], trial))
  return {trial: position for position, trial in enumerate(order)}


def check_final_scores(run: AuditedRun) -> str:
  """Checks the numbers of the final table.

  Args:
    run: a run with a final that was scored.

  Returns:
    The number of items, and the mean accuracy of base, starting and promoted recipe.
  """
  recorded = run.state.final['scores']
  expected = {BASE: run.base_file()}
  for trial in run.state.of_round(FINAL):
    if trial.final_scored:
      expected[trial.trial] = trial.export_file
  run.expect(
    set(recorded) == set(expected),
    f'the final holds {sorted(recorded)}, scored were {sorted(expected)}',
  )
  accuracies: dict[str, list[float]] = {}
  for name, weights in expected.items():
    before = len(run.problems)
    summary = recomputed(run, 'final', Scored(name, weights, {}))
    run.expect(
      len(run.problems) > before or summary == recorded.get(name),
      f"{name}: the ledger's final score is not that of the answers",
    )
    if summary:
      accuracies.setdefault(name.rstrip('0123456789'), []).append(summary['overall']['accuracy'])
  means = [f'{name} {sum(v) / len(v):.3f}' for name, v in accuracies.items()]
  return f'on {len(run.items("final"))} items: {", ".join(means)}'


# -- one score file --------------------------------------------------------------------------------


def recomputed(run: AuditedRun, split: str, candidate: Scored) -> dict:
  """Computes the summary of a score file again, from its answers and items drawn again.

  Everything else in the file must agree, or is a problem of the run.

  Args:
    run: the run of the file.
    split: 'dev', 'external' or 'final'.
    candidate: its name and weights.

  Returns:
    The summary; empty where the file is missing or about other items.
  """
  path = run.path / 'scores' / f'{candidate.name}.{split}.json'
  if not path.exists():
    run.problems.append(f'{path.name} is missing')
    return {}
  stored = json.loads(path.read_text())
  items = run.items(split)
  rows = scoring.from_rows(stored['items'])
  _check_weights(run, path.name, stored, candidate)
  if not _about_same_items(rows, items):
    run.problems.append(f'{path.name} is not about the {len(items)} items of the {split} set')
    return {}
  verifier = run.constitution.objective.verifier
  results = []
  wrong = 0
  for row, item in zip(rows, items, strict=True):
    result = scoring.judge(item, row.answer, verifier)
    wrong += row != result
    results.append(result)
  run.expect(
    not wrong, f'{path.name}: {wrong} items are marked otherwise than their answers deserve'
  )
  summary = scoring.summary(results, verifier)
  run.expect(stored['summary'] == summary, f'{path.name}: its summary is not that of its answers')
  return summary


def recomputed_probes(run: AuditedRun, candidate: Scored) -> dict:
  """Computes the summaries of a candidate's probes again, from its answers.

  Everything else in the file must agree, or is a problem of the run.

  Args:
    run: the run of the file.
    candidate: its name and weights.

  Returns:
    Probe -> summary; empty where the file is missing or answers other items.
  """
  dev_path = run.path / 'scores' / f'{candidate.name}.dev.json'
  path = score_files.probes_path(dev_path)
  if not path.exists():
    run.problems.append(f'{path.name} is missing')
    return {}
  stored = json.loads(path.read_text())
  dev = json.loads(dev_path.read_text())
  _check_weights(run, path.name, stored, candidate)
  if not _answers_all(run, stored['answers']):
    run.problems.append(f'{path.name} does not answer the items of {", ".join(run.probes)}')
    return {}
  dev_answers = [row[2] for row in dev['items']]
  summaries = {}
  for name, probe in run.probes.items():
    answers = stored['answers'][name]
    summaries[name] = probes_lib.summary(probe, answers, dev_answers, run.constitution)
  run.expect(stored['summary'] == summaries, f'{path.name}: its summary is not that of its answers')
  return summaries


def answers_expected(probe: Probe) -> list[int]:
  """Counts the answers that a candidate gives to a probe.

  Args:
    probe: one of the constitution's probes.

  Returns:
    For each item one, or the number of its seeds where it is sampled.
  """
  if probe.seeds:
    return [len(seeds) for seeds in probe.seeds]
  return [1] * len(probe.items)


def _answers_all(run: AuditedRun, answers: dict) -> bool:
  if answers.keys() != run.probes.keys():
    return False
  for name, probe in run.probes.items():
    if [len(of_item) for of_item in answers[name]] != answers_expected(probe):
      return False
  return True


def _with_dev(run: AuditedRun) -> list:
  return [t for t in run.state.trials.values() if t.dev is not None]


def _check_weights(run: AuditedRun, file: str, stored: dict, candidate: Scored) -> None:
  known = candidate.weights is not None
  run.expect(not known or stored['file_digest'] == candidate.weights, f'{file} is of other weights')


def _about_same_items(rows: Sequence[ItemResult], items: Sequence[Item]) -> bool:
  if len(rows) != len(items):
    return False
  for row, item in zip(rows, items, strict=True):
    if row.family != item.family or row.kind != item.kind:
      return False
  return True
