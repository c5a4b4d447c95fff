"""Runs in vLLM's environment, not here: a process that sends the weights of safetensors files to a
server, over NCCL or CUDA IPC.

  python aevo_sender.py '{"backend": "nccl", "device": 1, "master": "127.0.0.1", "world": 2,
  "timeout": 600}'      started by `generation/vllm/transfer.py`

One JSON line in on standard input, one out on standard output. First it says {"ready": backend}, or
{"error": ...} where there is no GPU to send from. Then each {"path", "sha256", "address", "mark"}
is answered with {"sent": sha256}, with {"refused": ...} if the file is not the one that was
announced, or with {"error": ...}. From before the first weight is replaced until it has all of them
the server calls them `mark`: what broke off in between, nobody takes for the weights before or
after. The first file opens the connection, which is kept. Anything but "ready" and "sent" ends the
process, and so does the end of its standard input, whatever it waits for.
"""

import json
import os
import queue
import sys
import threading
import traceback

import aevo_tensors
import torch


def pick(backend: str, index: int) -> torch.device:
  """The GPU that weights are sent from.

  Raises:
    RuntimeError: there is none.
  """
  found = torch.cuda.device_count() if torch.cuda.is_available() else 0
  if not found:
    raise RuntimeError(
      f"vllm.carrier = {backend!r} needs a GPU, and PyTorch {torch.__version__} of vLLM's "
      "environment sees none; bind vllm.carrier = 'file'"
    )
  if index >= found:
    raise RuntimeError(
      f'vllm.carrier = {backend!r} needs a GPU beside the {index} of the server, since '
      f'NCCL takes no two processes on one, and {found} are there; bind vllm.carrier = '
      "'file' or 'ipc'"
    )
  torch.cuda.set_device(index)
  return torch.device('cuda', index)


def main() -> None:
  replies, failing = os.fdopen(os.dup(1), 'w'), threading.Lock()
  os.dup2(2, 1)  # vLLM logs to standard output
  settings, lines = json.loads(sys.argv[1]), queue.SimpleQueue()

  def say(**reply: str) -> None:
    replies.write(json.dumps(reply) + '\n')
    replies.flush()

  def fail(what: str, kind: str = 'error') -> None:
    failing.acquire()  # the first cause is told
    say(**{kind: what})
    os._exit(1)

  def listen() -> None:
    for line in sys.stdin:
      lines.put(json.loads(line))
    os._exit(0)  # whoever wanted it has ended, or wants it no more

  threading.Thread(target=listen, daemon=True).start()
  try:
    device = pick(settings['backend'], settings['device'])
    say(ready=settings['backend'])
    import aevo_trainer  # vLLM: ten seconds, in which the server starts

    source, client, engine = aevo_trainer.Source(device), None, None
    while True:
      asked = lines.get()
      source.tensors = aevo_tensors.read(asked['path'], asked['sha256'])
      if engine is None:
        client = aevo_trainer.Client(asked['address'], settings['timeout'], fail)
        engine = aevo_trainer.connect(
          settings['backend'], client, source, master=settings['master'], world=settings['world']
        )
      client.mark, client.digest = asked['mark'], asked['sha256']
      engine.send_weights()
      source.tensors = {}
      say(sent=asked['sha256'])
  except aevo_tensors.RefusedError as error:
    fail(str(error), 'refused')
  except BaseException as error:
    traceback.print_exc()
    fail(
      str(error)
      if isinstance(error, RuntimeError) and error.args
      else f'{type(error).__name__}: {error}'
    )


if __name__ == '__main__':
  main()
