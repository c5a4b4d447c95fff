"""Fixtures that several suites share.

`tiny_run` is one real campaign, run once a session and never changed: confined workers, evaluator,
arbiter and ledger as in production, with everything small (round 0 with 2 seeds, 1 round of 2
workers, 2 final retrainings; 8,192 tokens a trial, sets of 60 items). Ask for it by name where a
finished run is enough:

    def test_something(tiny_run):
      records = ledger.read(tiny_run / 'ledger.jsonl')

Treat it as read-only. A test that changes files asks for `run_copy`, which is a copy of its own
that costs no disk: the files are hard links, so replace a file with `rewrite(path, data)` and never
write into it. `start_tiny_campaign` starts further campaigns of that size.
"""

import dataclasses
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest
import tiers_of_tests as tiers

import aevo_jax
from aevo_jax import layout
from aevo_jax.runtime import single_threaded_blas

# Test processes, the commands they start and later sessions share compiled programs. Campaigns have
# a cache of their own, which workers may only read.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).resolve().parents[1] / '.jax_cache')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# Small programs run once or twice: what LLVM's passes over them cost is never won back. The
# processes of campaigns inherit the flags. All before anything imports JAX.
os.environ['XLA_FLAGS'] = (
  f'{os.environ.get("XLA_FLAGS", "")} --xla_llvm_disable_expensive_passes=true '
  '--xla_backend_optimization_level=0'
).strip()
single_threaded_blas()  # small matrices; threads only get into each other's way

TINY = (
  'budget.rounds = 1',
  'budget.workers = 2',
  'budget.noise_seeds = 2',
  'reversal.blind = True',
  'budget.final_seeds = 1',
  'budget.trial_tokens = 8192',
  'budget.trial_steps = 4',
  'dev_set.items = 60',
  'external_set.items = 60',
  'final_set.items = 60',
  'release.per_round = 2',
)


# What these make takes processes or seconds, so a test that asks for one is heavy.
HEAVY_FIXTURES = {'tiny_home', 'tiny_run', 'run_copy', 'start_tiny_campaign', 'run_campaign', 'run'}


def pytest_addoption(parser) -> None:
  parser.addoption(
    '--long_part', default='', help='K/N: of the long tests, every N-th from the K-th (0 to N-1)'
  )


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config, items) -> None:
  """Marks the tests that tiers/ lists, and leaves out long ones of other parts."""
  if config.args == config.getini('testpaths'):
    config.stash[tiers.ALL] = [item.nodeid for item in items]
  kept, left_out = [], []
  for item in items:
    if tiers.is_heavy(item.nodeid) or HEAVY_FIXTURES & set(item.fixturenames):
      item.add_marker('heavy')
    row = tiers.row_of_long(item.nodeid)
    if row is not None:
      item.add_marker('long')
    if row is None or tiers.is_in_part(row, config.getoption('--long_part')):
      kept.append(item)
    else:
      left_out.append(item)
  items[:] = kept
  if left_out:
    config.hook.pytest_deselected(items=left_out)


@dataclasses.dataclass(frozen=True)
class CampaignFiles:
  """Where a started campaign lies, and what `Campaign` needs."""

  run: pathlib.Path
  inputs: object
  settings: object


@pytest.fixture(scope='session')
def shared_root(tmp_path_factory) -> pathlib.Path:
  """Directory of this session that all its test processes see."""
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    return base.parent
  return base


@pytest.fixture(scope='session')
def memory_root() -> pathlib.Path | None:
  """Where files lie in memory and syncing them costs nothing; None, which `tempfile` takes for a
  disk, where there is no such place.
  """
  shared_memory = pathlib.Path('/dev/shm')
  return shared_memory if os.access(shared_memory, os.W_OK) else None


@pytest.fixture(scope='session')
def once(shared_root) -> Callable[[str, Callable[[pathlib.Path], None]], pathlib.Path]:
  """once(name, make) -> a directory that `make` filled in one of the test processes.

  The others wait for it. A `make` that fails is tried again by the next process that asks.
  """

  def share(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    directory = shared_root / f'shared-{name}'
    finished = directory / '.finished'
    with (shared_root / f'shared-{name}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not finished.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        make(directory)
        finished.touch()
    return directory

  return share


# What a model computes has every cast and broadcast written out. Losses and optimizers promote, as
# Optax does; the test of scanned layers multiplies by numbers of tokens.
STRICT = 'models'
PROMOTE = frozenset({'models/test_scan_layers.py'})


@pytest.fixture(scope='module', autouse=True)
def strict_promotion(request):
  """Refuses implicit promotion of dtypes and ranks in the tests of `STRICT`.

  Only in this process: workers and servers of campaigns run as in production.
  """
  file = request.path.relative_to(pathlib.Path(__file__).parent)
  if file.parts[0] != STRICT or str(file) in PROMOTE:
    yield
    return
  import jax  # after compile_quickly

  with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
    yield


@pytest.fixture(scope='session')
def tiny_home(tmp_path_factory, shared_root):
  """Root of the tiny campaigns of this session: arbiter home, store and compilation cache are
  shared by all of them.

  The substrate is a copy, pinned here: whether the committed manifest fits the code is a test of
  its own.
  """
  from aevo_jax.substrate import build, manifest

  home = tmp_path_factory.mktemp('tiny')
  cache = shared_root / 'jit_cache'
  cache.mkdir(exist_ok=True)
  (home / '.jit_cache').symlink_to(cache)
  substrate = home / 'substrate'
  shutil.copytree(layout.root_file('substrate'), substrate)
  package_root = pathlib.Path(aevo_jax.__file__).resolve().parent.parent
  manifest.write(substrate / build.MANIFEST, build.measure(substrate, package_root))
  original = layout.root_file

  def root_file(name: str, package: pathlib.Path = layout.PACKAGE) -> pathlib.Path:
    """The pinned copy in place of the substrate that is committed."""
    return substrate if name == 'substrate' else original(name, package)

  with pytest.MonkeyPatch.context() as patch:
    # Not an argument: commands and pages that tests call in this process name no substrate, as a
    # person's do not, and have to find the pinned one.
    patch.setattr(layout, 'root_file', root_file)
    patch.setenv('AEVO_ARBITER_HOME', str(shared_root / 'arbiter'))
    # Workers and servers run in directories of their own and must import this code.
    patch.setenv(
      'PYTHONPATH',
      os.pathsep.join([str(package_root), *filter(None, [os.environ.get('PYTHONPATH')])]),
    )
    yield home


@pytest.fixture(scope='session')
def start_tiny_campaign(tiny_home):
  """prepare(name, *gin bindings over TINY) -> CampaignFiles, nothing run yet; `run_campaign` runs
  it.
  """
  from aevo_jax.campaign.setup import setup
  from aevo_jax.campaign.setup.settings import settings_from_gin
  from aevo_jax.config import constitution as constitution_lib
  from aevo_jax.config import loading

  def start(name: str, *bindings: str) -> CampaignFiles:
    last = {b.partition('=')[0].strip(): b for b in (*TINY, *bindings)}
    loading.load(
      [str(layout.root_file('constitution.gin'))],
      list(last.values()),
      search_paths=layout.search_paths(),
    )
    settings = settings_from_gin()
    inputs = setup.prepare(tiny_home / name, constitution_lib.from_gin(), settings)
    return CampaignFiles(tiny_home / name, inputs, settings)

  return start


@pytest.fixture(scope='session')
def run_campaign():
  """run(CampaignFiles, observer, **collaborators) -> the final state; call it again on an
  interrupted campaign to resume it. Collaborators replace those of `Campaign`.
  """
  from aevo_jax.campaign.campaign import Campaign
  from aevo_jax.campaign.setup import setup
  from aevo_jax.ledger.append import Ledger

  def run(files: CampaignFiles, observer=lambda record: None, **collaborators):
    with Ledger.open(files.run / setup.LEDGER) as ledger:
      campaign = Campaign(
        files.run, ledger, files.settings, files.inputs, observer, **collaborators
      )
      return campaign.run()

  return run


@pytest.fixture(scope='session')
def tiny_run(once, start_tiny_campaign, run_campaign) -> pathlib.Path:
  """Directory of a finished tiny campaign. Read-only, and one for all test processes."""

  def make(directory: pathlib.Path) -> None:
    files = start_tiny_campaign('finished')
    run_campaign(files)
    (directory / 'run').symlink_to(files.run)

  return (once('tiny_run', make) / 'run').resolve()


@pytest.fixture
def run_copy(tiny_run, tmp_path) -> pathlib.Path:
  """The finished tiny campaign as hard links; change it with `rewrite` only."""
  copy = tmp_path / 'run'
  shutil.copytree(tiny_run, copy, copy_function=os.link)
  return copy


@pytest.fixture(scope='session')
def rewrite():
  """rewrite(path, bytes or text): puts a new file in the place of an old one, so that hard links to
  the old one keep their content.
  """

  def replace(path: pathlib.Path, data: bytes | str) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)

  return replace
