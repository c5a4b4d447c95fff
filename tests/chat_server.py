"""A real HTTP server on this machine that speaks /v1/chat/completions, well or badly, as a test's
script says.

    with ChatServer(lambda request: completion('{}')) as server:
      ... base_url = server.url ...
      server.requests[0].body['messages']

A script returns what is written to the socket: bytes, or an iterable of bytes that are sent one by
one; `STALL` in it waits until the client has gone, `RESET` ends the connection with a TCP reset.
"""

import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

STALL, RESET = object(), object()


class Request(NamedTuple):
  path: str
  headers: dict[str, str]  # names in lower case
  body: dict[str, Any]


def http(
  status: int,
  body: bytes,
  *headers: str,
  kind: str = 'application/json',
  reason: str = 'Reason',
  length: int | None = None,
) -> bytes:
  """A whole response; `length` is what it claims to have."""
  lines = [
    f'HTTP/1.1 {status} {reason}',
    f'Content-Type: {kind}',
    f'Content-Length: {len(body) if length is None else length}',
    'Connection: close',
    *headers,
  ]
  return '\r\n'.join(lines).encode('latin-1') + b'\r\n\r\n' + body


def completion(content: Any, usage: Any = None, **message: Any) -> bytes:
  """A chat completion; usage (tokens in, tokens out), or whatever is to stand in its place."""
  usage = (
    {'prompt_tokens': usage[0], 'completion_tokens': usage[1]}
    if isinstance(usage, tuple)
    else usage
  )
  body = {
    'id': 'x',
    'object': 'chat.completion',
    'created': 1,
    'model': 'm',
    'choices': [
      {
        'index': 0,
        'finish_reason': 'stop',
        'message': {'role': 'assistant', 'content': content, **message},
      }
    ],
  } | ({} if usage is None else {'usage': usage})
  return http(200, json.dumps(body).encode())


class ChatServer(socketserver.ThreadingTCPServer):
  """Every request is put into `requests` and answered by `script`, which a test may replace at any
  time.
  """

  daemon_threads, block_on_close, allow_reuse_address = True, False, True

  def __init__(self, script: Callable[[Request], bytes | Iterable]):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.script, self.requests, self.closing = script, [], threading.Event()
    self.url = f'http://127.0.0.1:{self.server_address[1]}/v1'
    threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

  def __exit__(self, *exception) -> None:
    self.closing.set()
    self.shutdown()
    self.server_close()


class _Handler(socketserver.StreamRequestHandler):
  def handle(self):
    try:
      path = self.rfile.readline().decode().split()[1]
      headers = {}
      while line := self.rfile.readline().strip():
        name, _, value = line.decode('latin-1').partition(':')
        headers[name.lower()] = value.strip()
      request = Request(path, headers, json.loads(self.rfile.read(int(headers['content-length']))))
      self.server.requests.append(request)
      answer = self.server.script(request)
      for piece in [answer] if isinstance(answer, bytes) else answer:
        if self.server.closing.is_set():
          return
        if piece is STALL:
          self._wait_for_the_client()
        elif piece is RESET:
          self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
          self.wfile = self.rfile  # nothing is flushed
          self.connection.close()
          return
        else:
          self.connection.sendall(piece)
    except OSError:
      pass  # the client has gone, as it may

  def _wait_for_the_client(self):
    self.connection.settimeout(0.05)
    while not self.server.closing.is_set():
      try:
        if not self.connection.recv(1):
          return
      except TimeoutError:
        continue
