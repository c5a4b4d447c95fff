"""Everything a campaign needs before its first record: substrate stored, holdout committed, constitution frozen in the run directory."""

import dataclasses
import json
import pathlib
import secrets

from aevo_jax import layout
from aevo_jax.campaign.campaign import CampaignSettings, Inputs
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.constitution import Constitution
from aevo_jax.evaluation import arbiter
from aevo_jax.evaluation.sets import commitment
from aevo_jax.substrate import build, manifest
from aevo_jax.substrate.store import Store

INPUTS, SETTINGS, CONSTITUTION, LEDGER = 'inputs.json', 'settings.json', 'constitution.gin', 'ledger.jsonl'
SUBSTRATE = 'substrate.json'  # the digests behind the substrate's identity, file by file


class RunDirectoryError(ValueError):
  """The run directory cannot be used as asked; the message names the fix."""


def prepare(run: pathlib.Path, constitution: Constitution, settings: CampaignSettings) -> Inputs:
  """Makes the run directory and freezes its inputs.

  Raises:
    RunDirectoryError: it exists. SubstrateMismatchError: the substrate is not the pinned one.
  """
  if run.exists():
    raise RunDirectoryError(f'{run} exists; resume it with --resume={run}, or choose another --run')
  home = arbiter.default_home()
  holdout = f'{constitution.digest()[:16]}-{settings.seed}'
  frozen = constitution.committed(commitment(arbiter.holdout_secret(home, holdout)))
  run = run.absolute()
  store = Store(run.parent / '.store')
  substrate_root = layout.root_file('substrate')
  measured = build.measure(substrate_root, pathlib.Path(layout.__file__).parent.parent)
  stored = build.build(substrate_root, measured, store)
  inputs = Inputs(constitution=frozen, holdout=holdout, arbiter_campaign=f'{run.name}-{secrets.token_hex(4)}', store=str(store.root), substrate_object=stored.object,
                  substrate_identity=stored.identity, base_digest=measured.base_checkpoint.logical_digest, recipe=stored.recipe,
                  cache=str(run.parent / '.jit_cache'), arbiter_home=str(home))
  run.mkdir(parents=True)
  pathlib.Path(inputs.cache).mkdir(exist_ok=True)
  (run / CONSTITUTION).write_text(frozen.text())
  manifest.write(run / SUBSTRATE, measured)
  (run / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=1) + '\n')
  fields = dataclasses.asdict(inputs)
  del fields['constitution']
  (run / INPUTS).write_text(json.dumps(fields, indent=1) + '\n')
  # As a resumed controller or an audit will read them: the order of the axes in the operator's gin must not steer an agent.
  return reload(run)[0]


def reload(run: pathlib.Path) -> tuple[Inputs, CampaignSettings]:
  """The frozen inputs of an existing run.

  Raises:
    RunDirectoryError: not a run directory.
  """
  missing = [name for name in (INPUTS, SETTINGS, CONSTITUTION) if not (run / name).exists()]
  if missing:
    raise RunDirectoryError(f'{run} is not a run: it has no {", ".join(missing)}; start one with --run={run}')
  constitution = constitution_lib.read(run / CONSTITUTION)
  return Inputs(constitution=constitution, **json.loads((run / INPUTS).read_text())), CampaignSettings(**json.loads((run / SETTINGS).read_text()))
