"""Generation of rollouts: groups of episodes, turn by turn, from an engine."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.generation.protocol import Completion, GenerationEngine, Request, Sampling
from aevo_jax.training.recipe.rl_settings import Algorithm, Rollout
from aevo_jax.training.rl.rollouts import rollouts
from aevo_jax.training.rl.rollouts.environment import Action, Environment, Episode
from aevo_jax.training.rl.rollouts.rollouts import Sample


@dataclasses.dataclass(frozen=True)
class Format:
  """How episodes become tokens and back.

  Attributes:
    prompt: (text, first) -> ids of a user's turn up to where the answer begins. Unless it is the
      first turn, they follow an answer that has ended.
    text: ids of an answer -> its text.
    eos: ids that end an answer.
    name_of: id of a token -> its text, for messages.
  """

  prompt: Callable[[str, bool], Sequence[int]]
  text: Callable[[Sequence[int]], str]
  eos: tuple[int, ...]
  name_of: Callable[[int], str] = str


class RolloutSource(NamedTuple):
  """What rollouts come from.

  engine: generates with the weights that it was given last.
  environment: makes the episodes.
  form: turns them into tokens.
  dtype: of the engine's products, where they are not the policy's.
  """

  engine: GenerationEngine
  environment: Environment
  form: Format
  dtype: str | None = None


class Collected(NamedTuple):
  """The rollouts of a step.

  kept: samples to train on, group by group.
  generated: all samples, with those of groups that were left out.
  groups_kept: groups of `kept`.
  groups_generated: groups of `generated`.
  """

  kept: list[Sample]
  generated: list[Sample]
  groups_kept: int
  groups_generated: int


def seed_of(*numbers: int) -> int:
  """Derives a request's seed.

  Args:
    *numbers: the run's seed, then group, member and turn of the request.

  Returns:
    A number in [0, 2^32).
  """
  return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class _Transcript:
  """An episode that is played, and what was said in it."""

  def __init__(self, group: int, member: int, episode: Episode, form: Format):
    self.group = group
    self.member = member
    self._episode = episode
    self._form = form
    self.tokens: list[int] = []
    self._turns: list[int] = []
    self._logprobs: list[float] = []
    self._texts: list[str] = []
    self._digests: list[str] = []
    self._rewards: list[dict[str, float]] = []
    self._finish = ''
    self._show(form.prompt(episode.observation, True))

  def _show(self, tokens: Sequence[int]) -> None:
    """Appends tokens that the policy did not sample."""
    self.tokens += tokens
    self._turns += [-1] * len(tokens)
    self._logprobs += [0.0] * len(tokens)

  def answer(self, completion: Completion, turn: int) -> bool:
    """Appends the policy's answer and what is shown after it; returns whether that was the end."""
    sampled = completion.tokens
    self.tokens += sampled
    self._turns += [turn] * len(sampled)
    self._logprobs += completion.logprobs
    self._finish = completion.finish
    if completion.digest:
      self._digests.append(completion.digest)
    ended = completion.finish == 'end'
    text = self._form.text(sampled[:-1] if ended else sampled)
    self._texts.append(text)
    following = self._episode.act(Action(text, len(sampled), ended))
    self._rewards.append(following.rewards)
    if following.done:
      return True
    # An answer that was cut off is ended for the policy.
    end = () if ended else self._form.eos[:1]
    self._show([*end, *self._form.prompt(following.observation, False)])
    return False

  def sample(self, version: int) -> Sample:
    """Returns the episode as a sample of the policy's `version`."""
    return Sample(
      group=self.group,
      member=self.member,
      version=version,
      family=self._episode.family,
      tokens=tuple(self.tokens),
      turns=tuple(self._turns),
      logprobs=tuple(self._logprobs),
      rewards=tuple(self._rewards),
      finish=self._finish,
      text='\n'.join(self._texts),
      digests=tuple(self._digests),
    )


def generate(
  source: RolloutSource, groups: Sequence[int], settings: Rollout, sampling: Sampling, seed: int
) -> list[Sample]:
  """Generates the completions of groups, turn by turn, all open episodes at once.

  Args:
    source: engine, environment and format.
    groups: numbers of episodes.
    settings: how many completions a group has.
    sampling: temperature and length of completions.
    seed: of the run.

  Returns:
    Samples, group by group.
  """
  transcripts = []
  for group in groups:
    for member in range(settings.group_size):
      episode = source.environment.episode(group)
      transcripts.append(_Transcript(group, member, episode, source.form))
  open_ = transcripts
  version = source.engine.version
  for turn in range(source.environment.max_turns):
    if not open_:
      break
    requests = []
    for transcript in open_:
      request_seed = seed_of(seed, transcript.group, transcript.member, turn)
      requests.append(Request(tuple(transcript.tokens), request_seed))
    completions = source.engine.generate(requests, sampling)
    still_open = []
    for transcript, completion in zip(open_, completions, strict=True):
      if not transcript.answer(completion, turn):
        still_open.append(transcript)
    open_ = still_open
  return [transcript.sample(version) for transcript in transcripts]


def collect(source: RolloutSource, algorithm: Algorithm, first_group: int, seed: int) -> Collected:
  """Generates the rollouts of one step.

  With dynamic sampling (DAPO, 2503.14476), groups without signal are left out and others generated
  in their place, at most `rollout.max_batches` times.

  Args:
    source: engine, environment and format.
    algorithm: its rollout, reward and temperature.
    first_group: number of the first group; the others count on from it.
    seed: of the run.

  Returns:
    At most `rollout.prompts` groups to train on, and all that was generated.
  """
  settings = algorithm.rollout
  sampling = Sampling(
    temperature=algorithm.loss.temperature, max_new_tokens=settings.max_new_tokens
  )
  batches = settings.max_batches if settings.dynamic_sampling else 1
  kept: list[list[Sample]] = []
  generated: list[Sample] = []
  group = first_group
  for _ in range(batches):
    groups = range(group, group + settings.prompts)
    group += settings.prompts
    samples = generate(source, groups, settings, sampling, seed)
    generated += samples
    if settings.dynamic_sampling:
      kept += rollouts.with_signal(samples, algorithm.reward)
    else:
      kept += rollouts.grouped(samples)
    if len(kept) >= settings.prompts:
      break
  kept = kept[: settings.prompts]
  samples = []
  for members in kept:
    samples += members
  return Collected(samples, generated, len(kept), group - first_group)
