"""README.md of an exported winner: its scores, its use, and the digests of its run."""

import json

from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.models.hf import front_matter
from aevo_jax.report import claims
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.gains import BASE, PROMOTED, STARTING, group
from aevo_jax.report.run_view import RunView
from aevo_jax.report.winner import Winner
from aevo_jax.stats.intervals import wilson
from aevo_jax.substrate import manifest

# A backslash at the end of a line joins it with the next one in the card.
_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained('DIRECTORY'), \
AutoModelForCausalLM.from_pretrained('DIRECTORY')
"""
_USE_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained('DIRECTORY')
model = PeftModel.from_pretrained(\
AutoModelForCausalLM.from_pretrained('BASE_DIRECTORY'), 'DIRECTORY')
"""
_ASK = """prompt = tokenizer.apply_chat_template(\
[{{'role': 'user', 'content': 'QUESTION'}}], \
add_generation_prompt=True, return_tensors='pt', return_dict=True)
print(tokenizer.decode(\
model.generate(**prompt, do_sample=False, max_new_tokens={max_new_tokens})[0]))
```"""


# Of puzzles there are always new ones; see docs/own_model_and_data.md.
_SAME_LINES = (
  'The final items are lines of a fixed file. A campaign with another constitution or '
  'seed draws its sets anew from the same lines, so that its final set overlaps what '
  'this one selected on: these scores are a claim if this was the only campaign on the '
  'file; otherwise fresh lines are needed.'
)
_NO_TARGET = (
  'There was no external target: the final items are held-out ones of the same source as dev, so '
  'what proxies and source have in common they share.'
)
_FIRST_SEED = (
  'Of several seeds this is the first one that was trained to its end: it was not chosen by any '
  'score.'
)
_ONE_SEED = 'The recipe was retrained on this seed alone.'
_CARD = """{head}
# {what} of a campaign's {recipe}{label}

{what} of `{trial}`, a retraining of the {recipe} on a fresh seed, by `aevo \
export` (aevo_jax {version}). \
{seed}

## Scores

{scores}
## Use

{use}

Answers stand in the last `\\boxed{{}}`.

## Recipe

```
{gin}
```

## Provenance

| what | value |
|---|---|
{provenance}

With the run's directory `aevo audit` recomputes every score and decision, and \
`aevo trial RUN {trial} --rerun` trains these weights again.
"""


def text(
  run: AuditedRun, view: RunView, winner: Winner, *, adapter: bool, base_model: str, code: str
) -> str:
  """Writes the card.

  Args:
    run: the run of the winner.
    view: the same run.
    winner: the weights.
    adapter: whether a PEFT adapter lies beside the card, and not a whole model.
    base_model: name of the base.
    code: the commit of the code that the campaign ran.

  Returns:
    Markdown.
  """
  what = 'LoRA adapter' if adapter else 'Weights'
  recipe = 'starting recipe'
  label = ', NOT a promoted one'
  if winner.promoted:
    recipe = 'promoted recipe'
    label = ''
  ask = _ASK.format(max_new_tokens=run.constitution.objective.max_new_tokens)
  facts = provenance(run, winner)
  rows = [f'| {name} | `{value}` |' for name, value in facts.items()]
  head = front_matter.write(
    winner.base,
    base_model=base_model,
    library_name='peft' if adapter else 'transformers',
    provenance={'code': code, 'version': run.started['version'], 'tasks': facts['tasks']},
  )
  return _CARD.format(
    head=head,
    what=what,
    recipe=recipe,
    label=label,
    trial=winner.trial.trial,
    version=run.started['version'],
    seed=_FIRST_SEED if run.constitution.budget.final_seeds > 1 else _ONE_SEED,
    scores='\n'.join(_scores(run, view, winner)),
    use=(_USE_ADAPTER if adapter else _USE) + ask,
    gin=winner.recipe.rstrip('\n'),
    provenance='\n'.join(rows),
  )


def _scores(run: AuditedRun, view: RunView, winner: Winner) -> list[str]:
  """Lines of the section on scores; the last one is empty."""
  if run.manual:
    lines = _handed_in(winner.trial)
  else:
    lines = _scored(run, view, winner.trial.trial)
  for sentence in claims.sentences(view):
    lines.append(f'{sentence[0].upper()}{sentence[1:]}.')
  lines += [*claims.warnings(view), '']
  if view.proxies_only:
    lines += [_NO_TARGET, '']
  if run.constitution.tasks.digest:
    lines += [_SAME_LINES, '']
  return lines


def _scored(run: AuditedRun, view: RunView, name: str) -> list[str]:
  proportion = trial_score(run, name)
  correct = proportion['correct']
  total = proportion['total']
  interval = _interval(correct / total, *wilson(correct, total))
  lines = [
    f'Accuracy on {total} final items, which nothing was trained or chosen on, '
    f'scored once ({run.constitution.objective.verifier} comparison of the last '
    '`\\boxed{}`, greedy decoding):',
    '',
    '| what | accuracy [95%] | seeds |',
    '|---|---|---|',
    f'| this model | {interval} | 1 |',
  ]
  recipes = {BASE: 'base', STARTING: 'starting recipe', PROMOTED: 'promoted recipe'}
  if not view.promoted:
    recipes[PROMOTED] = 'starting recipe, other seeds'
  for group_name, words in recipes.items():
    score = view.results.scores.get(group_name)
    if score:
      interval = _interval(score.accuracy, score.low, score.high)
      lines.append(f'| {words} | {interval} | {score.seeds} |')
  return [*lines, '']


def _handed_in(trial: TrialState) -> list[str]:
  score = 'No score of it was handed in'
  if trial.submitted is not None:
    score = f'Its score was handed in as {trial.submitted:g}'
  return [
    f'The campaign was scored by somebody else. {score}; nothing of that can be '
    'recomputed from the run, and there is no private final set.',
    '',
  ]


def trial_score(run: AuditedRun, name: str) -> dict:
  """Returns the retraining's own final counts, from the ledger."""
  return run.state.final['scores'][name]['overall']


def provenance(run: AuditedRun, winner: Winner) -> dict[str, str]:
  """Collects what the run was made of and where it ended, by digests.

  Args:
    run: the run of the winner.
    winner: the weights.

  Returns:
    The card's table: what -> value.
  """
  started = run.started
  last = run.policies[run.last_round + 1]
  command = 'not recorded'
  if (run.path / 'command.json').exists():
    command = json.loads((run.path / 'command.json').read_text())['command']
  recipe = group(winner.trial.trial)
  seeds = []
  for trial in run.state.trials.values():
    if trial.round < 0 and group(trial.trial) == recipe:
      seeds.append(str(trial.seed))
  return {
    'command (as recorded by the run, not sealed)': command,
    'substrate (base, code and starting recipe)': started['substrate'],
    'base tensors': started['base_digest'],
    'code': manifest.read(run.path / 'substrate.json').code_tree.digest,
    'constitution': started['constitution'],
    'tasks': run.constitution.tasks.digest or 'the puzzles that the code generates',
    'holdout commitment': started['commitment'],
    'last policy': last.digest(),
    'ledger head': run.records[-1].hash,
    'recipe': winner.trial.recipe,
    'campaign seed': str(started['seed']),
    'seed of these weights': str(winner.trial.seed),
    'seeds of all retrainings of the recipe': ', '.join(seeds),
    'sealed trial': run.sealed_digest(winner.trial.trial),
    'tensors of these weights': winner.trial.candidate,
    'their file in the run': winner.trial.export_file,
    'machine': started['machine'],
    'workers confined': str(started['locked']),
  }


def _interval(value: float, low: float, high: float) -> str:
  return f'{value:.3f} [{low:.3f}, {high:.3f}]'
