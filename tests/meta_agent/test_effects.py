"""The effects' posterior against an independent computation, and what telling families apart is
for.
"""

import math

import numpy as np
import pytest

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import effects
from aevo_jax.meta_agent.effects import Count, Trial
from aevo_jax.meta_agent.encoding import Encoder

SPACE = SearchSpace.from_literals(
  {
    'rate': {
      'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}
    },
    'method': {
      'adaptation.method': {'kind': 'choice', 'choices': ['full', 'lora']},
      'lora.rank': {
        'kind': 'int',
        'low': 2,
        'high': 32,
        'scale': 'log',
        'when': {'adaptation.method': ['lora']},
      },
    },
    'style': {
      'solution_style.unit_conversion': {'kind': 'choice', 'choices': ['worked', 'steps', 'bare']}
    },
  }
)
DEFAULTS = {
  'optimizer.learning_rate': 1e-3,
  'adaptation.method': 'full',
  'lora.rank': 8,
  'solution_style.unit_conversion': 'worked',
}
ENCODER = Encoder(SPACE, DEFAULTS)
STEPS, LORA = {'solution_style.unit_conversion': 'steps'}, {'adaptation.method': 'lora'}
HALF = {'unit_conversion': Count(100, 200), 'numeral_conversion': Count(100, 200)}


def step(before, after) -> np.ndarray:
  """[1, f]."""
  return ENCODER.differences(ENCODER.codes(before), ENCODER.codes(after)[None])


def gain(found, before, after, *, own=False) -> tuple[float, float]:
  """Of one change; `own` without what any change costs."""
  steps = step(before, after)
  steps[:, 0] *= not own
  (mean,), (sd,) = found.gains(steps)
  return mean, sd


def trial(before, after, anchors=HALF, replicates=3, **right) -> Trial:
  """`right`: share of right answers by family, of 200 items."""
  return Trial(
    before,
    after,
    {family: Count(round(200 * share), 200) for family, share in right.items()},
    anchors,
    replicates,
  )


def log_odds(share: float) -> float:
  return math.log(share / (1 - share))


def test_counts_in_log_odds():
  assert Count(100, 200).log_odds == 0 and Count(150, 200).log_odds == pytest.approx(
    log_odds(150.5 / 201)
  )
  # The delta method: var(logit p) = 1 / (n p (1 - p)).
  assert Count(500, 2000).variance == pytest.approx(1 / (2000 * 0.25 * 0.75), rel=1e-2)
  assert math.isfinite(Count(0, 200).log_odds) and Count(0, 200).variance > 2


def test_the_posterior_is_that_of_gaussian_conditioning():
  """Bishop's precision form against the covariance form: mean = P X^T (X P X^T + S)^-1 y,
  covariance = P - P X^T (...)^-1 X P, with the anchors' common luck in the blocks of S that belong
  to one standing recipe."""
  rng = np.random.default_rng(0)
  overlays = [
    STEPS,
    LORA,
    STEPS | LORA,
    {'optimizer.learning_rate': 5e-3},
    {'optimizer.learning_rate': 2e-4} | STEPS,
  ]
  standing = [{}, {}, {}, STEPS, STEPS]

  def anchors(s):
    return {'numeral_conversion': Count(450, 1000) if s else Count(330, 600)}

  trials = [
    trial(s, s | o, anchors(s), 5 if s else 3, numeral_conversion=rng.uniform(0.3, 0.7))
    for s, o in zip(standing, overlays, strict=True)
  ]
  found = effects.fit(ENCODER, trials, anchors({}))
  x = np.concatenate([step(t.before, t.after) for t in trials])
  deviations = np.full(18, effects.PRIOR_SD)
  p = np.diag(deviations**2)
  s = np.diag(
    [
      t.counts['numeral_conversion'].variance + effects.SEED_SD**2 + effects.MISFIT_SD**2 * row[0]
      for t, row in zip(trials, x, strict=True)
    ]
  )
  s[:3, :3] += anchors({})['numeral_conversion'].variance + effects.SEED_SD**2 / 3
  s[3:, 3:] += anchors(STEPS)['numeral_conversion'].variance + effects.SEED_SD**2 / 5
  gained = p @ x.T @ np.linalg.inv(x @ p @ x.T + s)
  y = [
    t.counts['numeral_conversion'].log_odds - t.anchors['numeral_conversion'].log_odds
    for t in trials
  ]
  np.testing.assert_allclose(found.means[0], gained @ y, atol=1e-10)
  steps, covariance = np.vstack([rng.standard_normal((6, 18)), np.eye(18)]), p - gained @ x @ p
  np.testing.assert_allclose(
    found.variances(steps)[:, 0], np.diag(steps @ covariance @ steps.T), atol=1e-10
  )
  # Both ways of drawing, against the same normal distribution.
  for drawn in (
    found.draws(rng, 20_000)[:, 0] @ steps.T,
    found.draw_steps(steps, rng, 20_000)[..., 0],
  ):
    np.testing.assert_allclose(drawn.mean(axis=0), steps @ gained @ y, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), steps @ covariance @ steps.T, atol=0.02)


def test_a_gain_is_that_of_the_draws():
  """In accuracy, not in log-odds: by a sigmoid for each family, at the mean and to first order."""
  trials = [
    trial({}, STEPS, unit_conversion=0.6, numeral_conversion=0.5),
    trial({}, LORA, unit_conversion=0.4, numeral_conversion=0.3),
  ]
  found, rng = effects.fit(ENCODER, trials, HALF), np.random.default_rng(0)
  direction = step({}, LORA)[0]
  draws = found.overall(found.draws(rng, 4000) @ direction)
  mean, sd = gain(found, {}, LORA)
  assert draws.mean() == pytest.approx(mean, abs=0.1 * sd) and draws.std() == pytest.approx(
    sd, rel=0.1
  )

  def sigmoid(z):
    return 1 / (1 + math.exp(-z))

  assert mean == pytest.approx(np.mean([sigmoid(m @ direction) - 0.5 for m in found.means]))
  assert (
    found.overall(np.zeros(2)) == 0
    and found.overall(np.full(2, 50.0)) == pytest.approx(0.5)
    and found.overall(np.full(2, -50.0)) == pytest.approx(-0.5)
  )


def test_families_count_by_their_items():
  standing = {'a': Count(30, 100), 'b': Count(150, 300)}
  found = effects.fit(ENCODER, [], standing)
  np.testing.assert_allclose(found.shares, [0.25, 0.75])
  assert found.overall(np.asarray([50.0, 0.0])) == pytest.approx(0.25 * (1 - 30.5 / 101))


def test_what_helps_a_family_helps_it_little_where_another_change_has_brought_it_down():
  """Steps double the odds of units, LoRA divides all odds by four; both changed at once, accuracy
  falls, and steps are known to help all the same.
  """
  trials = [
    trial({}, LORA, unit_conversion=0.2, numeral_conversion=0.2),
    trial({}, STEPS | LORA, unit_conversion=1 / 3, numeral_conversion=0.2),
  ]
  found = effects.fit(ENCODER, trials, HALF)
  assert gain(found, {}, STEPS)[0] > 0.01 and gain(found, {}, LORA)[0] < -0.1
  assert gain(found, {}, STEPS | LORA)[0] < 0


def test_an_effect_on_its_own_family_shows_behind_a_loss_on_all():
  """LoRA costs .15 everywhere, steps gain .3 on units alone; both changed at once, overall nothing
  happened.
  """
  together = trial({}, STEPS | LORA, unit_conversion=0.65, numeral_conversion=0.35)
  by_family = effects.fit(ENCODER, [together], HALF)
  whole = {'overall': Count(200, 400)}
  overall = effects.fit(ENCODER, [Trial({}, STEPS | LORA, whole, whole, 3)], whole)
  assert gain(by_family, {}, STEPS)[0] > 0.04 and gain(by_family, {}, LORA)[0] < -0.02
  assert gain(overall, {}, STEPS)[0] == pytest.approx(0.0, abs=1e-9)


def test_what_any_change_costs_is_not_held_against_a_setting():
  """Three axes that lose alike: mostly the cost of changing an axis. `own` tells apart what is the
  setting's.
  """
  trials = [
    Trial({}, o, {'overall': Count(400, 1000)}, {'overall': Count(1500, 3000)}, 3)
    for o in (STEPS, LORA, {'optimizer.learning_rate': 5e-3})
  ]
  found = effects.fit(ENCODER, trials, {'overall': Count(1500, 3000)})
  whole, own = gain(found, {}, STEPS)[0], gain(found, {}, STEPS, own=True)[0]
  assert whole < -0.04 and abs(own) < 0.75 * abs(whole)
  assert gain(found, {}, {}, own=True) == (0.0, 0.0)
