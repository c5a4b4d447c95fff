"""The serving half of the servers' protocol: one JSON request a line in, one JSON reply a line out.

Evaluator and arbiter are processes on a pipe. They stay alive between trials, end when their
controller does, and answer an error as {"error": ...} without ending, with "errno" and "path" where
it is the system's, and a failed machine below them, such as an inference server, as
{"unavailable": ...}. Anything else printed goes to standard error. `client.py` is the other half.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TextIO

from aevo_jax.runtime import die_with_parent, pin_threads, tune_for_cpu, unpin

Handler = Callable[[dict], dict]


class RequestError(ValueError):
  """The request cannot be served; the message goes back to the controller."""


class UnavailableError(RuntimeError):
  """What the request needs has failed, again and again: that says nothing about the weights."""


def serve(handlers: Mapping[str, Handler]) -> None:
  """Answers requests on standard input until it ends, see `answer`.

  Args:
    handlers: operation -> what answers it.
  """
  # Replies own the real stdout; a stray print of a library must not break the protocol.
  replies = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  answer(handlers, sys.stdin, replies)


def answer(handlers: Mapping[str, Handler], requests: Iterable[str], replies: TextIO) -> None:
  """Answers requests {"op": name, ...} until they end.

  Args:
    handlers: operation -> what answers it.
    requests: one in a line.
    replies: gets a line for each, flushed.
  """
  for line in requests:
    replies.write(json.dumps(_reply(handlers, json.loads(line))) + '\n')
    replies.flush()


def _reply(handlers: Mapping[str, Handler], request: dict) -> dict:
  try:
    if request['op'] not in handlers:
      raise RequestError(
        f'unknown operation {request["op"]!r}; this server knows {sorted(handlers)}'
      )
    return handlers[request['op']](request)
  except OSError as error:
    path = str(error.filename or '')
    return {'error': f'{type(error).__name__}: {error}', 'errno': error.errno, 'path': path}
  except (RequestError, ValueError, KeyError) as error:
    return {'error': f'{type(error).__name__}: {error}'}
  except UnavailableError as error:
    return {'unavailable': f'{type(error.__cause__ or error).__name__}: {error}'}


def start(threads: int, cache: str) -> None:
  """Pins threads and opens the compilation cache; call it before anything else imports JAX.

  Args:
    threads: of XLA's pools.
    cache: directory of compiled programs, '' for none.
  """
  die_with_parent()
  cores = os.sched_getaffinity(0)
  pin_threads(threads)
  tune_for_cpu()
  import jax  # noqa: PLC0415 - with threads pinned

  if cache:
    pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  jax.devices()
  unpin(cores)
