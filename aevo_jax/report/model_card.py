"""README.md of an exported winner: what it is, how it scored, how to use it, and the digests by
which its run can be checked.
"""

import json

from aevo_jax.campaign.state import TrialState
from aevo_jax.report.audit.audited_run import AuditedRun
from aevo_jax.report.final_table import OVER, verdict
from aevo_jax.report.gains import BASE, PROMOTED, STARTING, group
from aevo_jax.report.run_view import RunView
from aevo_jax.report.winner import Winner
from aevo_jax.stats.intervals import wilson
from aevo_jax.substrate import manifest

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained('DIRECTORY'), AutoModelForCausalLM.from_pretrained('DIRECTORY')
"""
_USE_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained('DIRECTORY')
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('BASE_DIRECTORY'), 'DIRECTORY')
"""
_ASK = """prompt = tokenizer.apply_chat_template([{{'role': 'user', 'content': 'QUESTION'}}], add_generation_prompt=True, return_tensors='pt', return_dict=True)
print(tokenizer.decode(model.generate(**prompt, do_sample=False, max_new_tokens={max_new_tokens})[0]))
```"""


def text(run: AuditedRun, view: RunView, winner: Winner, *, adapter: bool) -> str:
  """The card as Markdown. `adapter`: what lies beside it is a PEFT adapter and not a whole model."""
  trial, started = winner.trial, run.started
  what = 'LoRA adapter' if adapter else 'Weights'
  recipe = 'promoted recipe' if winner.promoted else 'starting recipe'
  return '\n'.join(
    [
      '---',
      'tags: [aevo_jax]',
      '---',
      '',
      f"# {what} of a campaign's {recipe}" + ('' if winner.promoted else ', NOT a promoted one'),
      '',
      f'{what} of `{trial.trial}`, a retraining of the {recipe} on a fresh seed, by `aevo '
      f'export` (aevo_jax {started["version"]}). '
      'Of several seeds this is the first one that was trained to its end: it was not '
      'chosen by any score.',
      '',
      '## Scores',
      '',
      *(_handed_in(trial) if run.manual else _scored(run, view, trial.trial)),
      *(
        []
        if view.promoted
        else [
          'Nothing was promoted: "promoted" and "starting" are one recipe on different seeds.',
          '',
        ]
      ),
      *(
        f'The promoted recipe {verdict(gain, over)}.'
        for over, gain in view.results.gains.items()
        if over in OVER
      ),
      '',
      *([_SAME_LINES, ''] if run.constitution.tasks.digest else []),
      '## Use',
      '',
      (_USE_ADAPTER if adapter else _USE)
      + _ASK.format(max_new_tokens=run.constitution.objective.max_new_tokens),
      '',
      'Answers stand in the last `\\boxed{}`.',
      '',
      '## Recipe',
      '',
      '```',
      winner.recipe.rstrip('\n'),
      '```',
      '',
      '## Provenance',
      '',
      '| what | value |',
      '|---|---|',
      *(f'| {name} | `{value}` |' for name, value in provenance(run, winner).items()),
      '',
      (
        "With the run's directory `aevo audit` recomputes every score and decision, and "
        '`aevo trial RUN '
      )
      + trial.trial
      + ' --rerun` trains these weights again.',
      '',
    ]
  )


def _scored(run: AuditedRun, view: RunView, name: str) -> list[str]:
  own = trial_score(run, name)
  return [
    f'Accuracy on {own["total"]} final items, which nothing was trained or chosen on, '
    f'scored once ({run.constitution.objective.verifier} comparison of the last '
    f'`\\boxed{{}}`, '
    'greedy decoding):',
    '',
    '| what | accuracy [95%] | seeds |',
    '|---|---|---|',
    (
      '| this model | '
      f'{_interval(own["correct"] / own["total"], *wilson(own["correct"], own["total"]))} '
      '| 1 |'
    ),
    *(
      f'| {_NAMES[name]} | {_interval(s.accuracy, s.low, s.high)} | {s.seeds} |'
      for name in _NAMES
      if (s := view.results.scores.get(name))
    ),
    '',
  ]


def _handed_in(trial: TrialState) -> list[str]:
  score = (
    'No score of it was handed in'
    if trial.submitted is None
    else f'Its score was handed in as {trial.submitted:g}'
  )
  return [
    (
      f'The campaign was scored by somebody else. {score}; nothing of that can be '
      'recomputed from the run, and there is no private final set.'
    ),
    '',
  ]


# Of puzzles there are always new ones; see docs/own_model_and_data.md.
_SAME_LINES = (
  'The final items are lines of a fixed file. A campaign with another constitution or '
  'seed draws its sets anew from the same lines, so that its final set overlaps what '
  'this one selected on: these scores are a claim if this was the only campaign on the '
  'file; otherwise fresh lines are needed.'
)
_NAMES = {BASE: 'base', STARTING: 'starting recipe', PROMOTED: 'promoted recipe'}


def trial_score(run: AuditedRun, name: str) -> dict:
  """The retraining's own final counts, from the ledger."""
  return run.state.final['scores'][name]['overall']


def provenance(run: AuditedRun, winner: Winner) -> dict[str, str]:
  """What the run was made of and where it ended, by digests."""
  started, last = run.started, run.policies[run.last_round + 1]
  command = run.path / 'command.json'
  code = run.path / 'substrate.json'
  mine = group(winner.trial.trial)
  return {
    'command (as recorded by the run, not sealed)': json.loads(command.read_text())['command']
    if command.exists()
    else 'not recorded',
    'substrate (base, code and starting recipe)': started['substrate'],
    'base tensors': started['base_digest'],
    'code': manifest.read(code).code_tree.digest,
    'constitution': started['constitution'],
    'tasks': run.constitution.tasks.digest or 'the puzzles that the code generates',
    'holdout commitment': started['commitment'],
    'last policy': last.digest(),
    'ledger head': run.records[-1].hash,
    'recipe': winner.trial.recipe,
    'campaign seed': str(started['seed']),
    'seed of these weights': str(winner.trial.seed),
    'seeds of all retrainings of the recipe': ', '.join(
      str(t.seed) for t in run.state.trials.values() if t.round < 0 and group(t.trial) == mine
    ),
    'sealed trial': run.sealed_digest(winner.trial.trial),
    'tensors of these weights': winner.trial.candidate,
    'their file in the run': winner.trial.export_file,
    'machine': started['machine'],
    'workers confined': str(started['locked']),
  }


def _interval(value: float, low: float, high: float) -> str:
  return f'{value:.3f} [{low:.3f}, {high:.3f}]'
