"""Recomputes everything a run claims, from the ledger and the files beside it.

Nothing stored is believed that can be derived: dev, external and final items are drawn again,
answers are compared again with their keys, ranks, releases, evidence, policies and promotions are
computed again by the functions the controller used, and digests are taken again from the files.

Each check looks at one kind of artefact, and derives its expectations from the ledger rather than
from another artefact, so that one changed file fails one check. Two are gates: with a broken
ledger, or another constitution than the run's, nothing further can be said and the rest is skipped;
so are the private scores without the secret that was committed to. What a run has not come to yet
is 'not yet', which is no failure.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

from safetensors import SafetensorError
from safetensors.numpy import load_file

from aevo_jax import layout
from aevo_jax.campaign import decisions, llm_session, manual_arbiter, setup
from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.state import CampaignState, fold
from aevo_jax.campaign.trial.gate import RecipeRefusedError, full_recipe
from aevo_jax.campaign.trial.spec import EXPORT, TrialSpec, trial_seed
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.statements import render
from aevo_jax.evaluation import sets
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.ledger.records import LedgerError
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.chat_client import MAX_REPLY, Usage
from aevo_jax.report.audit.audited_run import AuditedRun, sha256
from aevo_jax.stats import concordance
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store
from aevo_jax.tasks import own_data

OK, FAILED, WARNING, NOT_YET, SKIPPED, NOT_APPLICABLE = (
  'ok',
  'FAILED',
  'warning',
  'not yet',
  'skipped',
  'n/a',
)
SHOWN = 6  # problems named in one line
# What a file that was tampered with can make its reader raise.
_UNREADABLE = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  IndexError,
  RecursionError,
  LedgerError,
  ManifestError,
  SafetensorError,
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the audit. status: 'ok', 'FAILED', 'warning', 'not yet', 'skipped' or 'n/a'."""

  check: str
  status: str
  detail: str


class NotYetError(Exception):
  """The run has not come to what the check looks at."""


class NotApplicableError(Exception):
  """A campaign of this kind has nothing for the check to look at."""


class Warned(Exception):
  """Nothing is wrong with the run, but its reader should know this."""


# -- the gates -------------------------------------------------------------------------------------


def check_ledger(run: AuditedRun) -> str:
  """The hash chain, and the head beside it."""
  run.expect(
    run.records and run.records[0].kind == 'campaign_started',
    'it does not begin with campaign_started',
  )
  return f'{len(run.records)} records, chained; the head is {run.records[-1].hash[:12]}'


def check_constitution(run: AuditedRun) -> str:
  """The file is the one the first record names."""
  text = (run.run / setup.CONSTITUTION).read_text()
  run.expect(
    sha256(text) == run.started['constitution'],
    f'{setup.CONSTITUTION} has digest {sha256(text)[:12]}, and the campaign started with '
    f'{run.started["constitution"][:12]}',
  )
  if not run.problems:
    run.expect(run.constitution.text() == text, f'{setup.CONSTITUTION} is not canonical')
  return f'digest {run.started["constitution"][:12]}, as in the first record'


def check_commitment(run: AuditedRun) -> str:
  """The revealed secret is the one the constitution committed to."""
  if run.manual:
    raise NotApplicableError('somebody else scored this campaign: it has no holdout')
  committed = run.constitution.holdout.commitment
  run.expect(
    committed == run.started['commitment'],
    'constitution and first record hold different commitments',
  )
  if run.state.revealed is None:
    raise NotYetError('the secret is not revealed before the final score')
  run.expect(
    sets.commitment(run.secret) == committed,
    'the revealed secret is not the one the constitution committed to',
  )
  return f'SHA-256 of the revealed secret is the commitment {committed[:12]}'


# -- what ran --------------------------------------------------------------------------------------


def check_inputs(run: AuditedRun) -> str:
  """inputs.json and settings.json say what the first record says."""
  settings = json.loads((run.run / setup.SETTINGS).read_text())
  run.expect(settings == run.started['settings'], f'{setup.SETTINGS} differs from the first record')
  run.expect(settings.get('seed') == run.started['seed'], 'two seeds')
  for field, recorded in (
    ('holdout', 'holdout'),
    ('substrate_object', 'substrate_object'),
    ('substrate_identity', 'substrate'),
    ('base_digest', 'base_digest'),
    ('recipe', 'recipe'),
  ):
    run.expect(
      run.inputs[field] == run.started[recorded],
      f'{setup.INPUTS}: {field} differs from the first record',
    )
  return f'seed {run.started["seed"]}, agent {run.started["settings"]["agent"]}'


def check_history(run: AuditedRun) -> str:
  """No trial was assigned, sealed or scored twice, and none is left over at the end."""
  seen: set[tuple[str, str]] = set()
  for record in run.records:
    if record.kind in (
      'trial_assigned',
      'trial_sealed',
      'trial_scored',
      'external_scored',
      'external_released',
      'final_candidate_scored',
      'submission_exported',
      'score_submitted',
    ):
      key = (record.kind, record.payload['trial'])
      run.expect(key not in seen, f'{key[1]} has two records {key[0]}')
      seen.add(key)
  if run.state.finished is not None:
    run.expect(
      run.state.finished_rounds == set(range(run.last_round + 1)),
      f'finished rounds are {sorted(run.state.finished_rounds)}',
    )
    run.problems += [
      f'{t.trial} was never concluded' for t in run.state.trials.values() if not t.done
    ]
  if run.state.exhausted is not None:
    index = next(i for i, r in enumerate(run.records) if r.kind == 'budget_exhausted')
    run.expect(
      decisions.out_of_time(fold(run.records[:index]), run.constitution, manual=run.manual)
      == run.state.exhausted,
      (
        "the rounds were ended early, and the ledger's times do not say that the "
        'wall-clock budget was used up'
      ),
    )
  count = {
    status: sum(t.status == status for t in run.state.trials.values())
    for status in ('sealed', 'failed', 'refused', 'assigned')
  }
  return (
    ', '.join(f'{n} {status}' for status, n in count.items() if n)
    + f'; {run.state.resumes} resumes'
    + (
      f'; ended after round {run.last_round} by the wall-clock budget'
      if run.state.exhausted
      else ''
    )
    + ('' if run.state.finished is not None else '; unfinished')
  )


def check_substrate(run: AuditedRun) -> str:
  """The stored object is whole, is the recorded one, and holds the recorded base and starting
  recipe.
  """
  name, identity = run.started['substrate_object'], run.started['substrate']
  if not pathlib.Path(run.inputs['store']).is_dir():
    raise FileNotFoundError(
      f'the substrate store {run.inputs["store"]} is gone; restore it beside the run'
    )
  path = Store(run.inputs['store']).verify(name)
  base = build.load_base(path, logical_digest=run.started['base_digest'])
  run.expect(
    (path / build.RECIPE).read_text() == run.started['recipe'],
    'the stored recipe is not the starting recipe of the first record',
  )
  measured = manifest.read(run.run / setup.SUBSTRATE)
  run.expect(
    build.identity(measured) == identity,
    f'{setup.SUBSTRATE} is not what the identity {identity[:12]} was made of',
  )
  run.expect(
    measured.base_checkpoint.logical_digest == run.started['base_digest'],
    f'{setup.SUBSTRATE} names another base',
  )
  for file in build.CARRIED:
    run.expect(
      digest_lib.file_digest(path / file) == measured.base_checkpoint.files[file],
      f'the stored {file} is not the pinned one',
    )
  if run.base.exists() and build.weights_digest(run.base, path) != run.started['base_digest']:
    run.problems.append(f'{run.base.name}, which was scored, is not the base')
    run.broken.add('base')
  return f'identity {identity[:12]}, stored object {name[:12]}, {len(base)} base tensors'


def check_tasks(run: AuditedRun) -> str:
  """Tasks of one's own: the frozen ones have the constitution's digest, and workers were given the
  train split and nothing else.
  """
  stored = Store(run.inputs['store']).path(run.started['substrate_object']) / build.TRAIN
  if run.own is None:
    run.expect(
      not stored.exists(),
      (
        f'the stored substrate holds {build.TRAIN}, on which workers train, and the '
        'constitution names no tasks'
      ),
    )
    return 'puzzles, generated by the code'
  train = run.own.of_split('train')
  run.expect(
    stored.is_file() and stored.read_text() == own_data.jsonl(train),
    f'the stored {build.TRAIN} is not the train split of {sets.TASKS}',
  )
  return (
    f'{len(run.own.items)} tasks with digest {run.own.digest[:12]}; workers were given the '
    f'{len(train)} of the train split'
  )


def check_code(run: AuditedRun) -> str:
  """Whether the code and base here are still the run's."""
  root = pathlib.Path(run.inputs.get('substrate_root') or layout.root_file('substrate'))
  if not root.is_dir():
    raise Warned(
      f"the substrate's folder {root} is gone, so that the code here was not compared "
      "with the run's; the stored copy is checked above"
    )
  here = build.measure(root, pathlib.Path(layout.__file__).resolve().parent.parent)
  differences = manifest.check(manifest.read(run.run / setup.SUBSTRATE), here)
  if differences:
    raise Warned(
      f"code differs from the run's, which may by itself fail checks below: {_some(differences)}"
    )
  return "the code, base and recipe here are the run's"


def check_confinement(run: AuditedRun) -> str:
  """Whether workers could have reached more than their directories."""
  if not run.started['locked']:
    raise Warned(
      'workers were not confined (see `aevo doctor`): the run shows what they claim, not '
      'that they could do no more'
    )
  return 'workers were confined'


def check_seals(run: AuditedRun) -> str:
  """Every file of every sealed trial, and the candidate's tensors."""
  for trial in run.sealed():
    directory, before = run.directory(trial), len(run.problems)
    if not directory.is_dir():
      run.problems.append(f'trials/{trial.trial} is missing')
    else:
      files = digest_lib.file_manifest(directory)
      if digest_lib.manifest_digest(files) != run.sealed_digest(trial.trial):
        run.problems.append(
          f'trials/{trial.trial} is not what was sealed{run.which_changed(trial, files)}'
        )
      elif (
        files.get(str(EXPORT)) != trial.export_file
        or digest_lib.logical_digest(load_file(directory / EXPORT)) != trial.candidate
      ):
        run.problems.append(f'trials/{trial.trial}: the recorded candidate is not the sealed one')
    if len(run.problems) > before:
      run.broken.add(trial.trial)
  return (
    f'{len(run.sealed())} sealed trials, every file as sealed, every candidate the recorded one'
  )


def check_recipes(run: AuditedRun) -> str:
  """Each trial ran the default recipe under what its policy assigned, admitted by the gate."""
  for trial in run.state.trials.values():
    expected = run.assignment(trial)
    if expected is None:
      run.problems.append(f'{trial.trial} is in no policy')
      continue
    axis, overlay, seed_name = expected
    run.expect(trial.axis == axis, f'{trial.trial} ran on axis {trial.axis}, assigned was {axis}')
    run.expect(
      trial.seed == trial_seed(run.started['seed'], seed_name),
      f'{trial.trial} has a seed that is not its own',
    )
    try:
      bindings = run.admitted(overlay, trial.round)
    except RecipeRefusedError as error:
      run.expect(
        trial.status == 'refused' and trial.cause == str(error),
        f'{trial.trial} should have been refused: {error}',
      )
      continue
    recipe = full_recipe(bindings, run.started['recipe'])
    run.expect(
      trial.overlay == render(bindings),
      f'{trial.trial} ran another overlay than its policy assigned',
    )
    run.expect(
      trial.recipe == sha256(recipe),
      f'{trial.trial} ran another recipe than the default under its overlay',
    )
    directory = run.directory(trial)
    if trial.trial not in run.broken and directory.is_dir():
      run.expect(
        TrialSpec.read(directory) == run.spec(trial),
        f"trials/{trial.trial}/spec.json is not the trial's input",
      )
      for name, text in (('recipe.gin', recipe), ('overlay.gin', trial.overlay)):
        run.expect(
          (directory / name).read_text() == text,
          f'trials/{trial.trial}/{name} is not what was assigned',
        )
  return (
    f'{len(run.state.trials)} recipes are gate(overlay) over the starting recipe, as their '
    'policies assigned'
  )


# -- scores ----------------------------------------------------------------------------------------


def check_dev_scores(run: AuditedRun) -> str:
  """Dev scores from the answers, against the dev set drawn again."""
  scored = {t.trial: (t.export_file, t.dev) for t in run.state.trials.values() if t.dev is not None}
  if run.state.base is not None:
    scored['base'] = (run.base_file(), run.state.base)
  if not scored:
    raise NotYetError('nothing is scored yet')
  for name, (file_digest, recorded) in scored.items():
    before = len(run.problems)
    summary = run.recomputed(name, 'dev', file_digest)
    run.expect(
      len(run.problems) > before or summary == recorded,
      f"{name}: the ledger's dev score is not that of the answers",
    )
  return (
    f'{len(scored)} dev scores recomputed from {sum(len(run.items("dev")) for _ in scored)} answers'
  )


def check_probes(run: AuditedRun) -> str:
  """Probe scores from the answers, against the probes made again; consensus, verdicts and trust are
  part of the evidence, which is rebuilt from them.
  """
  if not run.probes:
    return 'the constitution has none'
  scored = {
    t.trial: (t.export_file, t.probes) for t in run.state.trials.values() if t.dev is not None
  }
  if run.state.base is not None:
    scored['base'] = (run.base_file(), run.state.base_probes)
  if not scored:
    raise NotYetError('nothing is scored yet')
  for name, (file_digest, recorded) in scored.items():
    before = len(run.problems)
    said = run.recomputed_probes(name, file_digest)
    run.expect(
      len(run.problems) > before or said == recorded,
      f"{name}: the ledger's probe scores are not those of the answers",
    )
  return (
    f'{", ".join(run.probes)} of {len(scored)} candidates recomputed from '
    f'{len(scored) * sum(max(len(p.items), sum(map(len, p.seeds))) for p in run.probes.values())} '
    'answers'
  )


def check_external_scores(run: AuditedRun) -> str:
  """External scores from the answers, against the external set drawn with the revealed secret."""
  if run.constitution.objective.target == 'proxies':
    run.expect(
      not any(t.external_scored for t in run.state.trials.values()) and not run.state.ranks,
      'there is no external target, and external scores are recorded',
    )
    return 'no external target: nothing was scored, ranked or released'
  scored = [t for t in run.state.trials.values() if t.external_scored]
  for trial in scored:
    run.recomputed(trial.trial, 'external', trial.export_file)
  return f'{len(scored)} external scores recomputed on {len(run.items("external"))} items'


def check_ranks(run: AuditedRun) -> str:
  """Within-round ranks, the coin that breaks ties included."""
  for round_, ranks in run.state.ranks.items():
    accuracies = (
      submitted(run, round_)
      if run.manual
      else {
        t.trial: run.external(t.trial)['overall']['accuracy']
        for t in run.state.of_round(round_)
        if t.external_scored
      }
    )
    run.expect(
      ranks == arbiter.rank(accuracies, decisions.tie_seed(run.started['seed'], round_)),
      f'round {round_} was ranked otherwise',
    )
  return f'{len(run.state.ranks)} rounds ranked as recorded, ties included'


def submitted(run: AuditedRun, round_: int) -> dict[str, float]:
  """The scores that were handed in for a round's trials."""
  return {t.trial: t.submitted for t in run.state.of_round(round_) if t.submitted is not None}


def expected_releases(run: AuditedRun, round_: int) -> list[str]:
  """Whose scores the rule asks for; of a manual arbiter those of them that came."""
  chosen = decisions.to_release(
    run.state.of_round(round_),
    run.constitution.release.per_round,
    run.policies[round_].objectives,
    manual=run.manual,
  )
  return [t for t in chosen if not run.manual or run.state.trials[t].submitted is not None]


def check_releases(run: AuditedRun) -> str:
  """Who was asked for, how many, and that what was told is the rounded score."""
  rules, released = (
    run.constitution.release,
    [r.payload for r in run.records if r.kind == 'external_released'],
  )
  for round_ in sorted(run.state.finished_rounds):
    told = [p['trial'] for p in released if p['round'] == round_]
    run.expect(
      len(told) <= rules.per_round,
      f'round {round_} released {len(told)} scores, {rules.per_round} are allowed',
    )
    run.expect(
      set(told) == set(expected_releases(run, round_)),
      f'round {round_} released other trials than its rule names',
    )
  if run.manual:
    for p in released:
      score = run.state.trials[p['trial']].submitted
      run.expect(
        p['score'] == round(score, rules.decimals),
        f'{p["trial"]} was released as {p["score"]}, handed in was {score}',
      )
    return (
      f'{len(released)} releases within the quota, each the score that was handed in to '
      f'{rules.decimals} decimals'
    )
  if (
    run.state.revealed is not None
    and sets.commitment(run.secret) == run.constitution.holdout.commitment
  ):
    for p in released:
      scores = run.external(p['trial'])
      accuracy = scores['overall']['accuracy']
      run.expect(
        p['score'] == round(accuracy, rules.decimals),
        f'{p["trial"]} was released as {p["score"]}, its external score is {accuracy}',
      )
      families = {
        f: [round(score['accuracy'], rules.decimals), score['total']]
        for f, score in scores.items()
        if f != 'overall'
      }
      run.expect(
        p['by_family'] == families,
        f'{p["trial"]} was released with other scores by family than it has',
      )
    return (
      f'{len(released)} releases within the quota, each the external score to '
      f'{rules.decimals} decimals'
    )
  return (
    f'{len(released)} releases within the quota; their values can be checked once the '
    'secret is revealed'
  )


def check_submissions(run: AuditedRun) -> str:
  """What was exported for somebody else: whose the rule names, the sealed trial's, unchanged, and a
  score for that alone.
  """
  exported = {t.trial: t.submission for t in run.state.trials.values() if t.submission is not None}
  if not run.manual:
    run.expect(
      not exported, f'{", ".join(exported)} exported, and the campaign has an arbiter of its own'
    )
    return 'none: the campaign has an arbiter of its own'
  scores = {r.payload['trial']: r.payload for r in run.records if r.kind == 'score_submitted'}
  for name, fields in exported.items():
    trial, folder = run.state.trials[name], manual_arbiter.payload(run.run, name, fields['form'])
    run.expect(
      fields['candidate'] == trial.candidate,
      f'{name} was exported as another candidate than was sealed',
    )
    if trial.round != FINAL:
      run.expect(
        name
        in decisions.to_release(
          run.state.of_round(trial.round),
          run.constitution.release.per_round,
          run.policies[trial.round].objectives,
          manual=True,
        ),
        f'{name} was exported, and the rule names others',
      )
    run.expect(
      folder.is_dir()
      and digest_lib.manifest_digest(digest_lib.file_manifest(folder)) == fields['digest'],
      f'{folder.relative_to(run.run)} is not what was exported',
    )
    run.expect(
      name not in scores or scores[name]['digest'] == fields['digest'],
      f'the score of {name} is of another submission',
    )
  run.expect(
    scores.keys() <= exported.keys(),
    f'scores of {sorted(scores.keys() - exported.keys())}, which were not exported',
  )
  waived = sum(t.waived for t in run.state.trials.values())
  return (
    f'{len(exported)} submissions as exported, {len(scores)} scores handed in'
    + (f', {waived} given up' if waived else '')
    + '; the scores themselves cannot be recomputed here'
  )


def check_final_scores(run: AuditedRun) -> str:
  """The final table's numbers."""
  recorded = run.state.final['scores']
  expected = {'base': run.base_file()} | {
    t.trial: t.export_file for t in run.state.of_round(FINAL) if t.final_scored
  }
  run.expect(
    set(recorded) == set(expected),
    f'the final holds {sorted(recorded)}, scored were {sorted(expected)}',
  )
  means: dict[str, list[float]] = {}
  for name, file_digest in expected.items():
    before = len(run.problems)
    summary = run.recomputed(name, 'final', file_digest)
    run.expect(
      len(run.problems) > before or summary == recorded.get(name),
      f"{name}: the ledger's final score is not that of the answers",
    )
    if summary:
      means.setdefault(name.rstrip('0123456789'), []).append(summary['overall']['accuracy'])
  return f'on {len(run.items("final"))} items: ' + ', '.join(
    f'{name} {sum(v) / len(v):.3f}' for name, v in means.items()
  )


# -- decisions -------------------------------------------------------------------------------------


def check_verdicts(run: AuditedRun) -> str:
  """Thresholds from the rounds before, and verdicts from the recorded statistics under them."""
  for round_, recorded in run.state.thresholds.items():
    again = decisions.fix_thresholds(run.state, round_, run.constitution, run.started['seed'])
    run.expect(
      recorded == again, f'round {round_}: the thresholds do not follow from the rounds before it'
    )
  for round_, recorded in run.state.concordance.items() if run.manual else ():
    again = decisions.submitted_concordance(
      run.state.of_round(round_), decisions.tie_seed(run.started['seed'], round_)
    )
    run.expect(
      recorded == again,
      (
        f'round {round_}: the recorded statistics of dev and external are not those of the '
        'scores that were handed in'
      ),
    )
  for round_, recorded in run.state.attributions.items() if run.manual else ():
    run.expect(
      recorded == decisions.submitted_control(run.state, round_),
      (
        f'round {round_}: the recorded test of the control arm is not that of the scores '
        'that were handed in'
      ),
    )
  for round_, recorded in run.state.verdicts.items():
    run.expect(
      recorded == decisions.verdicts(run.state, round_, run.constitution),
      f'round {round_}: the statistics give other verdicts than were recorded',
    )
  spoken = collections.Counter(
    v['verdict'] for verdicts in run.state.verdicts.values() for v in verdicts.values()
  )
  return f'{sum(spoken.values())} verdicts recomputed: ' + ', '.join(
    f'{n} {verdict}' for verdict, n in sorted(spoken.items())
  )


def check_concordance(run: AuditedRun) -> str:
  """The statistics behind the verdicts and the test of the control arm, from the external answers."""
  for round_, recorded in run.state.concordance.items():
    trials = run.state.of_round(round_)
    dev = decisions.dev_streams(trials)
    external = {
      s: {t: run.external(t)[s]['accuracy'] if s in run.external(t) else None for t in scores}
      for s, scores in dev.items()
    }
    again = concordance.reduce_round(
      dev,
      external,
      decisions.dev_item_variance(trials),
      decisions.tie_seed(run.started['seed'], round_),
    )
    run.expect(
      recorded == again,
      f'round {round_}: the recorded statistics of dev and external are not those of the answers',
    )
  for round_, recorded in run.state.attributions.items():
    arms = decisions.controlled(run.state, round_)
    again = arbiter.arm_result(
      [
        {arm: {t: run.external(t)['overall'] for t in trials} for arm, trials in found.items()}
        for found in arms
      ]
    )
    run.expect(
      recorded == again,
      f'round {round_}: the recorded test of the control arm is not that of the answers',
    )
  return (
    f'{len(run.state.concordance)} rounds of statistics and {len(run.state.attributions)} '
    'tests of a control arm recomputed from the answers'
  )


def check_evidence(run: AuditedRun) -> str:
  """Each round's evidence, rebuilt from the ledger's records."""
  for round_, recorded in run.state.evidence.items():
    path = run.evidence_path(round_)
    run.expect(
      sha256(run.rebuilt_evidence(round_)) == recorded,
      f"round {round_}: the ledger's records give other evidence than was recorded",
    )
    run.expect(
      path.exists() and sha256(path.read_text()) == recorded,
      f'{path.relative_to(run.run)} is not the recorded evidence',
    )
  return f'{len(run.state.evidence)} rounds of evidence rebuilt from the ledger'


def check_policies(run: AuditedRun) -> str:
  """Each policy, decided again by the recorded agent from the recorded evidence; and its files."""
  for round_, policy in run.policies.items():
    recorded = run.state.policies[round_]['digest']
    if round_ == 0:
      again = policy_lib.starting(run.constitution.budget.noise_seeds)
    else:
      again = run.decided_again(round_)
    run.expect(
      policy.digest() == recorded,
      f'round {round_}: the recorded policy does not have its recorded digest',
    )
    run.expect(
      again.digest() == recorded,
      (
        f'round {round_}: the {run.started["settings"]["agent"]} agent decides otherwise on '
        'this evidence'
      ),
    )
    directory = run.run / 'policy' / f'round_{round_:03d}'
    for name, text in policy.files().items():
      run.expect(
        (directory / name).is_file() and (directory / name).read_text() == text,
        f'{directory.relative_to(run.run)}/{name} is not the recorded policy',
      )
  return f'{len(run.policies)} policies decided again, equal to the last digit'


def check_transcript(run: AuditedRun) -> str:
  """What was said to the language model and by it: the whole of each conversation led to what was
  decided, under the constitution's prompt and caps.
  """
  exchanges = [e for conversation in run.state.exchanges.values() for e in conversation]
  if not run.settings.asks_llm:
    run.expect(
      not exchanges and not run.state.fell_back,
      'a language model was asked, and the settings give it no part',
    )
    return 'no language model has a part in this campaign'
  rules, so_far = run.constitution.llm_rules, CampaignState()
  for record in run.records:
    if (
      record.kind == 'llm_requested'
      and (
        beyond := llm_session.beyond_caps(
          so_far.llm_spent, Usage(**record.payload['reserved']), rules
        )
      )
      is not None
    ):
      run.problems.append(f'record {record.seq} is a request beyond {beyond}')
    if record.kind in ('llm_requested', 'llm_exchange'):
      so_far.apply(record)
  for e in exchanges:
    where = f'round {e["round"]}, {e["purpose"]}, attempt {e["attempt"]}'
    run.expect(
      e['messages'][0] == {'role': 'system', 'content': rules.system_prompt},
      f"{where}: sent under another prompt than the constitution's",
    )
    whole = e['length'] <= MAX_REPLY
    run.expect(whole or e['error'] != '', f'{where}: a reply that was cut is taken for a whole one')
    run.expect(
      not whole or (sha256(e['reply']), len(e['reply'].encode())) == (e['digest'], e['length']),
      f'{where}: the reply does not have its recorded digest',
    )
  for round_ in run.policies:
    if round_ and run.settings.agent == 'llm':
      run.decided_again(round_)
    if run.state.of_round(round_):
      run.chosen(round_)
  for dialogue in run.dialogues.values():
    dialogue.check_complete()
  return (
    f'{len(exchanges)} exchanges, {len(run.state.fell_back)} questions given up; '
    f'{run.state.llm_spent["tokens_in"]} tokens in, '
    f'{run.state.llm_spent["tokens_out"]} out, '
    'within the caps'
  )


def check_promotions(run: AuditedRun) -> str:
  """What was promoted is what the policies say."""
  for round_, recorded in run.state.promotions.items():
    run.expect(
      recorded == decisions.promotion(run.policies[round_], run.policies[round_ + 1]),
      f"round {round_}: the recorded promotion is not the policy's",
    )
  changed = sum(r['promoted'] != r['before'] for r in run.state.promotions.values())
  return (
    f'{len(run.state.promotions)} decisions recomputed, {changed} of them changed the '
    'standing recipe'
  )


# -- running them ----------------------------------------------------------------------------------

_GATES = {'ledger': check_ledger, 'constitution': check_constitution}
_OPEN: dict[str, Callable[[AuditedRun], str]] = {
  'inputs': check_inputs,
  'history': check_history,
  'substrate': check_substrate,
  'tasks': check_tasks,
  'code': check_code,
  'confinement': check_confinement,
  'sealed trials': check_seals,
  'recipes': check_recipes,
  'dev scores': check_dev_scores,
  'probes': check_probes,
  'verdicts': check_verdicts,
  'evidence': check_evidence,
  'policies': check_policies,
  'transcript': check_transcript,
  'promotions': check_promotions,
  'releases': check_releases,
  'submissions': check_submissions,
}
_PRIVATE = {
  'external scores': check_external_scores,
  'ranks': check_ranks,
  'concordance': check_concordance,
  'final scores': check_final_scores,
}
CHECKS = (*_GATES, *_OPEN, 'commitment', *_PRIVATE)


def audit(run: pathlib.Path) -> Iterator[Finding]:
  """Yields one finding a check, in the order of `CHECKS`.

  Args:
    run: a run directory, finished or not, with no controller at work in it.
  """
  audited = AuditedRun(run)
  stopped = ''
  for name, check in _GATES.items():
    if not stopped:
      finding = _finding(name, check, audited)
      yield finding
      stopped = name if finding.status == FAILED else ''
    else:
      yield _skipped(name, stopped)
  for name, check in _OPEN.items():
    yield _skipped(name, stopped) if stopped else _finding(name, check, audited)
  commitment = (
    _skipped('commitment', stopped)
    if stopped
    else _finding('commitment', check_commitment, audited)
  )
  yield commitment
  for name, check in _PRIVATE.items():
    if commitment.status == NOT_APPLICABLE:
      yield (
        _finding(name, check, audited)
        if check is check_ranks
        else Finding(name, NOT_APPLICABLE, 'private re-scoring: somebody else scored this campaign')
      )
    elif commitment.status == OK:
      yield _finding(name, check, audited)
    else:
      yield (
        Finding(name, NOT_YET, 'needs the secret')
        if commitment.status == NOT_YET
        else _skipped(name, stopped or 'commitment')
      )


def _finding(name: str, check: Callable[[AuditedRun], str], run: AuditedRun) -> Finding:
  run.problems = []
  try:
    detail = check(run)
  except NotYetError as reason:
    detail, status = str(reason), NOT_YET
  except NotApplicableError as reason:
    detail, status = str(reason), NOT_APPLICABLE
  except Warned as warning:
    detail, status = str(warning), WARNING
  except _UNREADABLE as error:
    run.problems.append(f'{type(error).__name__}: {error}')
    status = FAILED
  else:
    status = OK
  return (
    Finding(name, FAILED, _some(run.problems)) if run.problems else Finding(name, status, detail)
  )


def _skipped(name: str, because: str) -> Finding:
  return Finding(name, SKIPPED, f'says nothing while the {because} check fails')


def _some(problems: Sequence[str]) -> str:
  rest = len(problems) - SHOWN
  return '; '.join(problems[:SHOWN]) + (f'; and {rest} more' if rest > 0 else '')
