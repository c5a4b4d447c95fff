"""The effects' posterior against an independent computation, and what telling families apart is for."""

import math

import numpy as np
import pytest

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import effects
from aevo_jax.meta_agent.effects import Trial

SPACE = SearchSpace.from_literals({
    'rate': {'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}},
    'method': {'adaptation.method': {'kind': 'choice', 'choices': ['full', 'lora']},
               'lora.rank': {'kind': 'int', 'low': 2, 'high': 32, 'scale': 'log', 'when': {'adaptation.method': ['lora']}}},
    'style': {'solution_style.unit_conversion': {'kind': 'choice', 'choices': ['worked', 'steps', 'bare']}},
})
DEFAULTS = {'optimizer.learning_rate': 1e-3, 'adaptation.method': 'full', 'lora.rank': 8, 'solution_style.unit_conversion': 'worked'}
STEPS, LORA = {'solution_style.unit_conversion': 'steps'}, {'adaptation.method': 'lora'}
HALVES = {'unit_conversion': 0.5, 'numeral_conversion': 0.5}


def test_a_difference_counts_changed_axes_and_leaves_out_what_a_condition_leaves_out():
  most = LORA | {'lora.rank': 32, 'optimizer.learning_rate': 1e-2}
  # [axes, rate: in range, position, square, full, lora, rank: in range, position, square, full x rank, lora x rank, worked, steps, bare]
  np.testing.assert_allclose(effects.difference(SPACE, DEFAULTS, {}, most), [2, 0, 1, 1, -1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], atol=1e-12)
  undone = [2, 0, -1, -1, 1, -1, -1, -1, -1, 0, 0, 0, -1, -1, -1, 0, 0, 0]  # undoing is a change too
  np.testing.assert_allclose(effects.difference(SPACE, DEFAULTS, most, {}), undone, atol=1e-12)
  np.testing.assert_allclose(effects.difference(SPACE, DEFAULTS, {}, {'lora.rank': 32}), [1] + [0] * 17, atol=1e-12)  # no rank without LoRA


def test_the_posterior_is_that_of_gaussian_conditioning():
  """Bishop's precision form against the covariance form: mean = P X^T (X P X^T + S)^-1 y, covariance = P - P X^T (...)^-1 X P, with the anchors' common
  luck in the blocks of S that belong to one standing recipe."""
  rng = np.random.default_rng(0)
  overlays = [STEPS, LORA, STEPS | LORA, {'optimizer.learning_rate': 5e-3}, {'optimizer.learning_rate': 2e-4} | STEPS]
  standing = [{}, {}, {}, STEPS, STEPS]
  trials = [Trial(s, s | o, {'overall': float(rng.normal(0, 0.05))}, float(rng.uniform(0.005, 0.02)), 0.004 if s else 0.007) for s, o in zip(standing, overlays)]
  found = effects.fit(SPACE, DEFAULTS, trials, {'overall': 1.0})
  x = np.asarray([found.difference(t.before, t.after) for t in trials])
  deviations = np.full(18, effects.PRIOR_SD)
  deviations[9:15] *= effects.PAIR
  p, s = np.diag(deviations**2), np.diag([t.noise**2 + effects.MISFIT_SD**2 for t in trials])
  s[:3, :3] += 0.007**2
  s[3:, 3:] += 0.004**2
  gain = p @ x.T @ np.linalg.inv(x @ p @ x.T + s)
  np.testing.assert_allclose(found.means[0], gain @ [t.gains['overall'] for t in trials], atol=1e-10)
  np.testing.assert_allclose(found.roots[0] @ found.roots[0].T, p - gain @ x @ p, atol=1e-10)
  mean, sd = found.gain({}, STEPS | LORA)
  direction = found.difference({}, STEPS | LORA)
  assert mean == pytest.approx(direction @ found.means[0]) and sd == pytest.approx(math.sqrt(direction @ (p - gain @ x @ p) @ direction))


def test_draws_have_the_posteriors_moments():
  trials = [Trial({}, STEPS, {'unit_conversion': 0.2, 'numeral_conversion': 0.0}, 0.01, 0.01), Trial({}, LORA, {'unit_conversion': -0.1, 'numeral_conversion': -0.2}, 0.01, 0.01)]
  found, rng = effects.fit(SPACE, DEFAULTS, trials, HALVES), np.random.default_rng(0)
  direction = found.difference({}, STEPS)
  draws = np.asarray([found.draw(rng) @ direction for _ in range(4000)])
  mean, sd = found.gain({}, STEPS)
  assert draws.mean() == pytest.approx(mean, abs=4 * sd / math.sqrt(4000)) and draws.std() == pytest.approx(sd, rel=0.06)


def test_families_without_parameters_of_their_own_add_up_to_the_overall_posterior():
  overlays = [({'optimizer.learning_rate': 5e-3}, 0.02), (LORA, -0.05), ({'optimizer.learning_rate': 2e-4} | LORA, -0.08)]
  whole = effects.fit(SPACE, DEFAULTS, [Trial({}, o, {'overall': g}, 0.01, 0.005) for o, g in overlays], {'overall': 1.0})
  # The families' gains differ and average to the overall one.
  parts = effects.fit(SPACE, DEFAULTS, [Trial({}, o, {'a': g + 0.03, 'b': g - 0.01}, 0.01, 0.005) for o, g in overlays], {'a': 0.25, 'b': 0.75})
  for overlay, _ in overlays:
    assert parts.gain({}, overlay) == pytest.approx(whole.gain({}, overlay), abs=1e-9)


def test_an_effect_on_its_own_family_shows_behind_a_loss_on_all():
  """LoRA costs .15 everywhere, steps gain .3 on units alone; both changed at once, overall nothing happened."""
  together = [Trial({}, STEPS | LORA, {'unit_conversion': 0.15, 'numeral_conversion': -0.15}, 0.01, 0.005)]
  by_family = effects.fit(SPACE, DEFAULTS, together, HALVES)
  overall = effects.fit(SPACE, DEFAULTS, [t._replace(gains={'overall': 0.0}) for t in together], {'overall': 1.0})
  assert by_family.gain({}, STEPS)[0] > 0.04 and by_family.gain({}, LORA)[0] < -0.02
  assert overall.gain({}, STEPS)[0] == pytest.approx(0.0, abs=1e-9)


def test_what_any_change_costs_is_not_held_against_a_setting():
  """Three axes that lose alike: mostly the cost of changing an axis. `own` tells apart what is the setting's."""
  trials = [Trial({}, o, {'overall': -0.05}, 0.005, 0.002) for o in (STEPS, LORA, {'optimizer.learning_rate': 5e-3})]
  found = effects.fit(SPACE, DEFAULTS, trials, {'overall': 1.0})
  whole, own = found.gain({}, STEPS)[0], found.gain({}, STEPS, own=True)[0]
  assert whole < -0.04 and abs(own) < 0.75 * abs(whole)
  assert found.gain({}, {}, own=True) == (0.0, 0.0)
