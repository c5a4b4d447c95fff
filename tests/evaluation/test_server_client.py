"""Servers repeat a request after they die, and an error reply is an error."""

import os
import sys

import pytest

from aevo_jax.evaluation.servers.client import Server, ServerError

ECHO = """
import json, pathlib, sys
flag = pathlib.Path(sys.argv[1])
for line in sys.stdin:
  request = json.loads(line)
  if request['op'] == 'die' and (not flag.exists() or request.get('always')):
    flag.touch()
    sys.exit(3)
  if request['op'] == 'half' and not flag.exists():
    flag.touch()
    sys.stdout.write('{"ok": tr'); sys.stdout.flush()
    sys.exit(3)
  reply = {'error': 'ValueError: no'} if request['op'] == 'bad' else {'ok': request['op']}
  print(json.dumps(reply), flush=True)
"""


@pytest.fixture
def server(tmp_path):
  made = Server([sys.executable, '-c', ECHO, str(tmp_path / 'flag')], tmp_path / 'log')
  yield made
  made.close()


def test_answers_come_in_order_with_their_tags(server):
  for tag in range(5):
    server.submit(tag, {'op': f'o{tag}'})
  answers = []
  while len(answers) < 5:
    if server.waiting:
      server.send_next()
    answer = server.poll()
    answers += [answer] if answer else []
  assert answers == [(tag, {'ok': f'o{tag}'}) for tag in range(5)]
  assert not server.waiting and not server.busy and server.poll() is None


@pytest.mark.parametrize('op', ['die', 'half'])
def test_a_server_that_dies_is_started_again_and_the_request_repeated(server, op):
  assert server.call({'op': op}) == {'ok': op}
  assert server.call({'op': 'after'}) == {'ok': 'after'}


def test_one_that_keeps_dying_is_an_error_after_a_bounded_number_of_starts(server):
  with pytest.raises(ServerError, match='ended 4 times, last with status 3'):
    server.call({'op': 'die', 'always': True})


def test_an_error_reply_is_an_error_and_the_server_lives_on(server):
  with pytest.raises(ServerError, match='bad: ValueError: no'):
    server.call({'op': 'bad'})
  assert server.call({'op': 'next'}) == {'ok': 'next'}


def test_close_ends_it_and_is_harmless_twice(server):
  server.call({'op': 'x'})
  pid = server.pid
  server.close()
  server.close()
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)
