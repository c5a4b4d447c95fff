"""A process that sends the weights of safetensors files to a server, over NCCL or CUDA IPC.

This runs in vLLM's environment, not here; `generation/vllm/transfer.py` starts it:

  python aevo_sender.py '{"backend": "nccl", "device": 1, "master": "127.0.0.1", "world": 2,
                          "timeout": 600}'

One JSON line in on standard input, one out on standard output. First it says {"ready": backend}, or
{"error": ...} where there is no GPU to send from. Then each {"path", "sha256", "address", "mark"}
is answered with {"sent": sha256}, with {"refused": ...} if the file is not the one that was
announced, or with {"error": ...}. From before the first weight is replaced until it has all of them
the server calls them `mark`: nobody takes what broke off in between for the weights before or
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
  """Selects the GPU that weights are sent from.

  Args:
    backend: for errors.
    index: of the GPU.

  Returns:
    The device.

  Raises:
    RuntimeError: there is none.
  """
  count = torch.cuda.device_count() if torch.cuda.is_available() else 0
  if not count:
    raise RuntimeError(
      f"vllm.carrier = {backend!r} needs a GPU, and PyTorch {torch.__version__} of vLLM's "
      "environment sees none; bind vllm.carrier = 'file'"
    )
  if index >= count:
    raise RuntimeError(
      f'vllm.carrier = {backend!r} needs a GPU beside the {index} of the server, since '
      f'NCCL takes no two processes on one, and {count} are there; bind vllm.carrier = '
      "'file' or 'ipc'"
    )
  torch.cuda.set_device(index)
  return torch.device('cuda', index)


def main() -> None:
  """Sends a file for each line of standard input, until that ends."""
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # vLLM logs to standard output
  settings = json.loads(sys.argv[1])
  requests = queue.SimpleQueue()
  failing = threading.Lock()

  def reply(**fields: str) -> None:
    replies.write(json.dumps(fields) + '\n')
    replies.flush()

  def fail(problem: str, kind: str = 'error') -> None:
    failing.acquire()  # the first cause is told
    reply(**{kind: problem})
    os._exit(1)

  def listen() -> None:
    for line in sys.stdin:
      requests.put(json.loads(line))
    os._exit(0)  # the caller has ended, or needs this process no more

  threading.Thread(target=listen, daemon=True).start()
  try:
    device = pick(settings['backend'], settings['device'])
    reply(ready=settings['backend'])
    import aevo_trainer  # noqa: PLC0415 - vLLM: ten seconds, in which the server starts

    source = aevo_trainer.Source(device)
    client = None
    engine = None
    while True:
      request = requests.get()
      source.tensors = aevo_tensors.read(request['path'], request['sha256'])
      if engine is None:
        client = aevo_trainer.Client(request['address'], settings['timeout'], fail)
        engine = aevo_trainer.connect(
          settings['backend'], client, source, master=settings['master'], world=settings['world']
        )
      client.mark = request['mark']
      client.digest = request['sha256']
      engine.send_weights()
      source.tensors = {}
      reply(sent=request['sha256'])
  except aevo_tensors.RefusedError as error:
    fail(str(error), 'refused')
  except BaseException as error:
    traceback.print_exc()
    if isinstance(error, RuntimeError) and error.args:
      fail(str(error))
    fail(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  main()
