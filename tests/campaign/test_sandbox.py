"""Attacks by a confined worker. Each runs twice, in a child process: without confinement it must
succeed, with it fail.

The children use nothing of the test process. An attack is a few lines of Python that raise OSError
when they are refused; `own`, `shared` and `private` are the worker's directory, one it may read,
and one it must not know.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aevo_jax.campaign.sandbox import confinement

REPOSITORY = Path(__file__).resolve().parents[2]
USABLE, REASON = confinement.available()
needs_sandbox = pytest.mark.skipif(not USABLE, reason=REASON)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='the attack needs root to succeed at all')

PRELUDE = """
import ctypes, json, os, socket, subprocess, sys
from pathlib import Path
task = json.loads(sys.argv[1])
own, shared, private = Path(task["own"]), Path(task["shared"]), Path(task["private"])
def confine(**options):
    from aevo_jax.campaign.sandbox import confinement as sandbox
    read = (*sandbox.system_read_paths(), Path(task["repository"]) / "aevo_jax", shared)
    sandbox.confine(sandbox.Confinement(read, (own, *sandbox.system_write_paths()), **options))
"""

ATTACKS = {
  'read a private file': "(private / 'secret').read_text()",
  'list a private directory': 'os.listdir(private)',
  'read through a symbolic link': (
    "(own / 'l').symlink_to(private / 'secret'); (own / 'l').read_text()"
  ),
  'read through ..': "(own / '..' / 'private' / 'secret').read_text()",
  'read through /proc/self/root': "Path('/proc/self/root' + str(private / 'secret')).read_text()",
  "read through the parent's root": (
    "Path(f'/proc/{os.getppid()}/root' + str(private / 'secret')).read_text()"
  ),
  "read the parent's open file": (
    'Path(f"/proc/{os.getppid()}/fd/{task[\'descriptor\']}").read_text()'
  ),
  "read the parent's environment": "Path(f'/proc/{os.getppid()}/environ').read_bytes()",
  'hard-link a private file': "os.link(private / 'secret', own / 'l')",
  'move a private file here': "os.rename(private / 'secret', own / 'l')",
  'write': "(shared / 'weights').write_text('x')",
  'append': "open(shared / 'weights', 'a').write('x')",
  'truncate': "os.truncate(shared / 'weights', 0)",
  'open to truncate': "os.close(os.open(shared / 'weights', os.O_RDONLY | os.O_TRUNC))",
  'create': "(shared / 'new').write_text('x')",
  'mkdir': "(shared / 'new').mkdir()",
  'unlink': "(shared / 'weights').unlink()",
  'rename inside': "os.rename(shared / 'weights', shared / 'old')",
  'rename the directory': "os.rename(shared, own / 'shared')",
  'rename a parent': "os.rename(shared.parent, str(shared.parent) + '-old')",
  'rename over': "(own / 'n').write_text('x'); os.rename(own / 'n', shared / 'weights')",
  'symlink into': "(shared / 'l').symlink_to('/')",
  'hard-link into': "(own / 'n').write_text('x'); os.link(own / 'n', shared / 'l')",
  'hard-link out': "os.link(shared / 'weights', own / 'l')",
  'chmod': "os.chmod(shared / 'weights', 0o666)",
  'fchmod': "os.fchmod(os.open(shared / 'weights', os.O_RDONLY), 0o666)",
  'chmod the directory': 'os.chmod(shared, 0o777)',
  'chown': "os.chown(shared / 'weights', os.getuid(), os.getgid())",
  'setxattr': "os.setxattr(shared / 'weights', 'user.x', b'1')",
  'write through a descriptor path': (
    "d = os.open(shared / 'weights', os.O_RDONLY); open(f'/proc/self/fd/{d}', 'w').write('x')"
  ),
  'tcp': "socket.create_connection(('127.0.0.1', task['tcp']), 5)",
  'udp': (
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', task['udp']))"
  ),
  'listen': "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()",
  'unix socket by path': "socket.socket(socket.AF_UNIX).connect(task['unix'])",
  'netlink': 'socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)',
  'signal': "os.kill(task['victim'], 0)",
  'a child does it': (
    "r = subprocess.run(['/bin/cat', private / 'secret'], capture_output=True); "
    'r.returncode and (_ for _ in ()).throw(PermissionError)'
  ),
}
ROOT_ATTACKS = {
  'device file for a disk': (
    "import stat; os.mknod(own / 'disk', 0o600 | stat.S_IFBLK, os.makedev(7, 0))"
  ),
  'device file for memory': (
    "import stat; os.mknod(own / 'zero', 0o600 | stat.S_IFCHR, os.makedev(1, 5))"
  ),
  'give a file away': 'os.chown(own, 12345, 12345)',
  'change root': 'os.chroot(own)',
  'kernel log': "open('/proc/kmsg').close()",
  'read a disk': "open(task['disk'], 'rb').read(1)",
}


@pytest.fixture
def world(tmp_path):
  """The directories, sockets and processes that attacks aim at, as the child's task."""
  for name in ('own', 'upper/shared', 'private'):
    (tmp_path / name).mkdir(parents=True)
  weights, secret = tmp_path / 'upper/shared/weights', tmp_path / 'private/secret'
  weights.write_text('w')
  secret.write_text('canary')
  secret.chmod(0o600)
  disks = sorted(path for path in Path('/dev').iterdir() if path.is_block_device())
  victim = subprocess.Popen(['sleep', '60'])
  with (
    open(secret) as opened,
    socket.create_server(('127.0.0.1', 0)) as tcp,
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    socket.socket(socket.AF_UNIX) as unix,
  ):
    udp.bind(('127.0.0.1', 0))
    unix.bind(str(tmp_path / 'own/s'))
    unix.listen()
    yield {
      'own': str(tmp_path / 'own'),
      'shared': str(weights.parent),
      'private': str(secret.parent),
      'repository': str(REPOSITORY),
      'descriptor': opened.fileno(),
      'tcp': tcp.getsockname()[1],
      'udp': udp.getsockname()[1],
      'unix': str(tmp_path / 'own/s'),
      'victim': victim.pid,
      'disk': str(disks[0]) if disks else None,
    }
  victim.kill()
  victim.wait()


def run(world, code, timeout=60):
  environment = os.environ | {
    'PYTHONPATH': str(REPOSITORY),
    'JAX_PLATFORMS': 'cpu',
    'TMPDIR': world['own'],
    'HOME': world['own'],
    'PYTHONDONTWRITEBYTECODE': '1',
  }
  # From the worker's directory: the relative paths that Python tries first are then its own.
  return subprocess.run(
    [sys.executable, '-c', PRELUDE + textwrap.dedent(code), json.dumps(world)],
    cwd=world['own'],
    env=environment,
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def attack(world, code, confined):
  """'done', or the name of the error that refused it."""
  lines = ['confine()'] if confined else []
  lines += [
    'try:',
    f'    {code}',
    "    print('done')",
    'except OSError as error:',
    '    print(type(error).__name__)',
  ]
  result = run(world, '\n'.join(lines))
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


@needs_sandbox
@pytest.mark.parametrize('name', ATTACKS)
def test_attack(world, name):
  refused = attack(world, ATTACKS[name], confined=True)
  assert Path(world['shared'], 'weights').read_text() == 'w'
  assert os.listdir(world['shared']) == ['weights']
  assert Path(world['private'], 'secret').read_text() == 'canary'
  # EXDEV is Landlock's answer to renames and links between directories.
  assert refused in ('PermissionError', 'OSError'), refused
  for left in ('l', 'n'):
    Path(world['own'], left).unlink(missing_ok=True)
  outcome = attack(world, ATTACKS[name], confined=False)
  if name == 'setxattr' and outcome == 'OSError':
    pytest.skip('this file system has no extended attributes: no positive control')
  assert outcome == 'done', 'the positive control failed: the attack proves nothing'


@needs_sandbox
@needs_root
@pytest.mark.parametrize('name', ROOT_ATTACKS)
def test_attack_by_root(world, name):
  if name == 'read a disk' and world['disk'] is None:
    pytest.skip('this machine has no block device to read')
  assert attack(world, ROOT_ATTACKS[name], confined=True) == 'PermissionError'
  outcome = attack(world, ROOT_ATTACKS[name], confined=False)
  if outcome != 'done':
    pytest.skip(f'root lacks the capability here ({outcome}): no positive control')


@needs_sandbox
def test_worker_can_train_and_write_its_own_directory(world):
  code = """
        confine()
        import jax, jax.numpy as jnp
        jax.config.update("jax_compilation_cache_dir", str(own / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        step = jax.jit(lambda w, x: w - 0.1 * jax.grad(lambda w: ((x @ w - 1.0) ** 2).mean())(w))
        w = jnp.zeros((3,))
        for _ in range(200):
            w = step(w, jnp.eye(3))
        from aevo_jax.checkpoint import orbax_io
        orbax_io.save(own / "checkpoint", {"w": w}, metadata={"step": 200})
        import grain
        batch = next(iter(grain.MapDataset.range(8).shuffle(seed=0).batch(4).to_iter_dataset()))
        from tensorboard.summary import Writer
        writer = Writer(str(own / "tensorboard"))
        writer.add_scalar("loss", 0.0, 0)
        writer.close()
        (own / "log").write_text("x")
        os.rename(own / "log", own / "log.1")
        (own / "log.1").unlink()
        text = (shared / "weights").read_text()
        print(json.dumps({"w": w.tolist(), "batch": len(batch), "input": text}))
    """
  result = run(world, code, timeout=240)
  assert result.returncode == 0, result.stderr
  answer = json.loads(result.stdout)
  assert answer['w'] == pytest.approx([1.0] * 3, abs=1e-3)  # the minimum of |w - 1|^2
  assert answer['batch'] == 4 and answer['input'] == 'w'
  assert {'cache', 'checkpoint', 'tensorboard'} <= set(os.listdir(world['own']))


@needs_sandbox
def test_tcp_alone_can_be_allowed(world):
  code = """
        confine(allow_tcp=True)
        socket.create_connection(("127.0.0.1", task["tcp"]), 5).close()
        refused = 0
        for kind in (
            (socket.AF_INET, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_RAW),
        ):
            try:
                socket.socket(*kind)
            except PermissionError:
                refused += 1
        print(refused)
    """
  result = run(world, code)
  assert (result.returncode, result.stdout.strip()) == (0, '3'), result.stderr


@needs_sandbox
def test_children_keep_no_capability_and_cannot_loosen(world):
  code = """
        confine()
        from aevo_jax.campaign.sandbox import confinement as sandbox
        # A second layer can only take away.
        sandbox.confine(sandbox.Confinement((Path("/"),), (Path("/"),)))
        try:
            (private / "secret").read_text()
        except PermissionError:
            print("refused")
        command = ["/bin/cat", "/proc/self/status"]
        status = subprocess.run(command, capture_output=True, text=True).stdout
        wanted = ("CapEff", "CapPrm", "NoNewPrivs", "Seccomp:")
        print([line for line in status.splitlines() if line.startswith(wanted)])
    """
  result = run(world, code)
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines()[0] == 'refused'
  for expected in (
    'CapPrm:\\t0000000000000000',
    'CapEff:\\t0000000000000000',
    'NoNewPrivs:\\t1',
    'Seccomp:\\t2',
  ):
    assert expected in result.stdout


@needs_sandbox
def test_refuses_threads_and_missing_paths_before_confining(world):
  code = """
        import os, threading
        from aevo_jax.campaign.sandbox import confinement as sandbox
        stop = threading.Event(); thread = threading.Thread(target=stop.wait); thread.start()
        try:
            confine()
        except sandbox.SandboxError as error:
            print(error)
        stop.set(); thread.join()
        while len(os.listdir("/proc/self/task")) > 1:
            pass  # the kernel's part of the thread ends a little later
        try:
            sandbox.confine(sandbox.Confinement((private / "absent",), ()))
        except FileNotFoundError as error:
            print(error)
        print((private / "secret").read_text())
    """
  lines = run(world, code).stdout.splitlines()
  assert 'before importing numpy or jax' in lines[0]
  assert 'does not exist' in lines[1] and 'absent' in lines[1]
  assert lines[2] == 'canary'


@pytest.mark.parametrize(
  ('abi', 'fix'), [(0, 'landlock in lsm='), (1, 'Linux >= 6.2'), (2, 'Linux >= 6.2')]
)
def test_never_degrades_silently(abi, fix):
  kernel = confinement.Kernel(abi=abi)
  assert not confinement.available(kernel)[0]
  with pytest.raises(confinement.SandboxUnavailableError, match=fix):
    confinement.confine(confinement.Confinement((), ()), kernel)


def test_unknown_machine_is_unavailable():
  kernel = confinement.Kernel(abi=7, machine='riscv64')
  with pytest.raises(confinement.SandboxUnavailableError, match='x86_64 or aarch64'):
    confinement.confine(confinement.Confinement((), ()), kernel)


def test_system_paths_hold_no_disk_and_no_secrets():
  paths = {
    str(path) for path in (*confinement.system_read_paths(), *confinement.system_write_paths())
  }
  assert not paths & {
    '/',
    '/dev',
    '/dev/shm',
    '/etc',
    '/etc/shadow',
    '/home',
    '/root',
    '/tmp',
    '/var',
  }
  assert sys.prefix in paths and '/dev/null' in paths


@needs_sandbox
def test_the_controller_can_still_stop_its_worker(world):
  code = PRELUDE + "confine(); print('ready', flush=True); sys.stdin.read()"
  worker = subprocess.Popen(
    [sys.executable, '-c', code, json.dumps(world)],
    cwd=world['own'],
    env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert worker.stdout.readline() == 'ready\n'
  worker.send_signal(signal.SIGKILL)
  assert worker.wait(10) == -signal.SIGKILL
  worker.stdin.close()
  worker.stdout.close()
