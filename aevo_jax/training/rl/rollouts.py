"""Rollouts: groups of completions with rewards, as records in a log and as arrays for the loss. A
batch read back from its log is the batch that was trained on.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from aevo_jax.generation.protocol import GenerationEngine, Request, Sampling
from aevo_jax.training.rl import rewards
from aevo_jax.training.rl.environment import Action, Episode
from aevo_jax.training.rl.settings import Reward, Rollout

ROW = 32  # rows are as long as a multiple of it


class Environment(Protocol):
  """Makes episodes by number; `max_turns` is how many turns one may have."""

  max_turns: int

  def episode(self, index: int) -> Episode: ...


@dataclasses.dataclass(frozen=True)
class Sample:
  """One completion with its prompt, of one or more turns.

  Attributes:
    group: number of its prompt in the stream. member: in its group. version: of the weights that
      drew it; digests: of the files that brought them to a server, of each turn.
    tokens: all, prompt first. turns: of each token, the turn in which the policy drew it, -1 where
      it did not. logprobs: the sampler's, 0 where it drew nothing.
    rewards: parts, of each turn. finish: of the last turn. text: of all turns, a line each.
  """

  group: int
  member: int
  version: int
  family: str
  tokens: tuple[int, ...]
  turns: tuple[int, ...]
  logprobs: tuple[float, ...]
  rewards: tuple[dict[str, float], ...]
  finish: str
  text: str
  digests: tuple[str, ...] = ()

  @property
  def mask(self) -> np.ndarray:
    return np.asarray(self.turns) >= 0

  @property
  def parts(self) -> dict[str, float]:
    """The parts of all turns together."""
    return {
      name: sum(r.get(name, 0.0) for r in self.rewards)
      for name in dict.fromkeys(n for r in self.rewards for n in r)
    }


@dataclasses.dataclass(frozen=True)
class Format:
  """How episodes become tokens. prompt(text, first): ids of a user's turn up to where the answer
  begins, after an answer that has ended unless it is the first; text(ids): of an answer; eos: ids
  that end one."""

  prompt: Callable[[str, bool], Sequence[int]]
  text: Callable[[Sequence[int]], str]
  eos: tuple[int, ...]


def seed_of(*numbers: int) -> int:
  """A request's seed in [0, 2^32), from the run's seed and the request's place."""
  return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def generate(
  engine: GenerationEngine,
  environment: Environment,
  form: Format,
  groups: Sequence[int],
  settings: Rollout,
  sampling: Sampling,
  seed: int,
) -> list[Sample]:
  """`group_size` completions of each group, group by group; turn by turn, all open episodes at
  once.
  """
  episodes = {(g, m): environment.episode(g) for g in groups for m in range(settings.group_size)}
  history: dict[tuple[int, int], list] = {
    key: [list(form.prompt(e.observation, True)), [], [], [], '', []] for key, e in episodes.items()
  }  # tokens, turns, logprobs, texts, finish, digests
  earned: dict[tuple[int, int], list[dict[str, float]]] = {key: [] for key in episodes}
  for tokens, turns, logprobs, *_ in history.values():
    turns += [-1] * len(tokens)
    logprobs += [0.0] * len(tokens)
  open_, version = list(episodes), engine.version
  for turn in range(environment.max_turns):
    if not open_:
      break
    found = engine.generate(
      [Request(tuple(history[key][0]), seed_of(seed, *key, turn)) for key in open_], sampling
    )
    still = []
    for key, completion in zip(open_, found):
      tokens, turns, logprobs, texts, _, digests = state = history[key]
      drawn = completion.tokens
      tokens += drawn
      turns += [turn] * len(drawn)
      logprobs += completion.logprobs
      ended = completion.finish == 'end'
      text = form.text(drawn[:-1] if ended else drawn)
      texts.append(text)
      state[4] = completion.finish
      if completion.digest:
        digests.append(completion.digest)
      after = episodes[key].act(Action(text, len(drawn), ended))
      earned[key].append(after.rewards)
      if not after.done:
        shown = [
          *(() if ended else form.eos[:1]),
          *form.prompt(after.observation, False),
        ]  # an answer that was cut off is ended for it
        tokens += shown
        turns += [-1] * len(shown)
        logprobs += [0.0] * len(shown)
        still.append(key)
    open_ = still
  return [
    Sample(
      g,
      m,
      version,
      episodes[g, m].family,
      tuple(t),
      tuple(u),
      tuple(p),
      tuple(earned[g, m]),
      f,
      '\n'.join(x),
      tuple(d),
    )
    for (g, m), (t, u, p, x, f, d) in history.items()
  ]


def grouped(samples: Sequence[Sample]) -> list[list[Sample]]:
  """Samples by group, in order."""
  groups: dict[int, list[Sample]] = {}
  for sample in samples:
    groups.setdefault(sample.group, []).append(sample)
  return list(groups.values())


def with_signal(samples: Sequence[Sample], settings: Reward) -> list[list[Sample]]:
  """Groups of which some are right and some are wrong; where the verifier has no weight, those
  whose rewards are not all equal.
  """
  worth = (
    (lambda s: s.parts.get('verifiable', 0.0))
    if settings.verifiable
    else (lambda s: rewards.total(s.parts, settings))
  )
  return [g for g in grouped(samples) if np.ptp([worth(s) for s in g])]


def arrays(samples: Sequence[Sample], rows: int) -> dict[str, np.ndarray]:
  """tokens, segment_ids, mask, turns, sampler_logprobs, [rows, t] each; rows beyond the samples are
  empty.
  """
  length = -(-max((len(s.tokens) for s in samples), default=1) // ROW) * ROW
  out = {
    'tokens': np.zeros((rows, length), np.int32),
    'segment_ids': np.zeros((rows, length), np.int32),
    'mask': np.zeros((rows, length), np.float32),
    'turns': np.full((rows, length), -1, np.int32),
    'sampler_logprobs': np.zeros((rows, length), np.float32),
  }
  for row, s in enumerate(samples):
    n = len(s.tokens)
    out['tokens'][row, :n], out['segment_ids'][row, :n], out['turns'][row, :n] = (
      s.tokens,
      1,
      s.turns,
    )
    out['mask'][row, :n], out['sampler_logprobs'][row, :n] = s.mask, s.logprobs
  return out


@dataclasses.dataclass(frozen=True)
class Batch:
  """What a step trains on. arrays: as `arrays` makes them, and old_logprobs, ref_logprobs and
  old_values where they are needed, [rows, t] each. facts: numbers about it.
  """

  samples: tuple[Sample, ...]
  arrays: dict[str, np.ndarray]
  facts: dict[str, float]


def write(path: pathlib.Path, batch: Batch) -> None:
  """`path`.npz has the arrays, `path`.jsonl a line of facts and one for each sample, to be read by
  people; renamed into place, the lines last.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  numbers = {'tokens', 'turns', 'logprobs'}
  lines = [
    batch.facts,
    *(
      {name: value for name, value in dataclasses.asdict(s).items() if name not in numbers}
      for s in batch.samples
    ),
  ]
  aside = path.with_name(f'.{path.name}.npz'), path.with_name(f'.{path.name}.jsonl')
  np.savez_compressed(aside[0], **batch.arrays)
  aside[1].write_text('\n'.join(map(json.dumps, lines)) + '\n')
  for file in aside:
    file.rename(path.with_suffix(file.suffix))


def read(path: pathlib.Path) -> Batch:
  """What `write` wrote, bit for bit.

  Raises:
    FileNotFoundError: there is no such log.
  """
  facts, *lines = map(json.loads, path.with_suffix('.jsonl').read_text().splitlines())
  with np.load(path.with_suffix('.npz')) as file:
    found = dict(file)
  samples = []
  for line, tokens, turns, segments, logprobs in zip(
    lines, *(found[name] for name in ('tokens', 'turns', 'segment_ids', 'sampler_logprobs'))
  ):
    n = int((segments > 0).sum())
    samples.append(
      Sample(
        **line
        | {
          'rewards': tuple(line['rewards']),
          'digests': tuple(line['digests']),
          'tokens': tuple(tokens[:n].tolist()),
          'turns': tuple(turns[:n].tolist()),
          'logprobs': tuple(logprobs[:n].tolist()),
        }
      )
    )
  return Batch(tuple(samples), found, facts)
