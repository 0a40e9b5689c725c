"""Statistics of weights, similarity and rollout, against loops over single entries."""

import itertools
import math

import numpy as np
import pytest

from jattn.analysis import patterns, rollout, similarity

N, H, T, S = 3, 2, 7, 7
RNG = np.random.default_rng(0)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


LOWER = np.tril(np.ones((T, S), bool))
WEIGHTS = softmax(np.where(LOWER, 2 * RNG.normal(size=(N, H, T, S)), -np.inf))
REAL = np.arange(T)[None] < np.array([[7], [5], [4]])
ALLOWED = LOWER[None] & REAL[:, None, :]


def loops(statistic):
    """The mean over real queries of what a function of one row says, head by head."""
    found = []
    for head in range(H):
        values = [statistic(WEIGHTS[n, head, t], t) for n in range(N) for t in range(T) if REAL[n, t]]
        found.append(sum(values) / len(values))
    return np.array(found)


def surprise(row, t):
    return -sum(w * math.log(w) for w in row if w > 0)


BRUTE = {
    "entropy": surprise,
    "keys": lambda row, t: math.exp(surprise(row, t)),
    "distance": lambda row, t: sum(w * abs(t - s) for s, w in enumerate(row)),
    "diagonal": lambda row, t: row[t],
    "first": lambda row, t: row[0],
    "top_1": lambda row, t: max(row),
    "top_4": lambda row, t: sum(sorted(row)[-4:]),
    "top_16": lambda row, t: 1.0,
    "sparsity": lambda row, t: sum(w < 0.1 / (t + 1) for w in row[: t + 1]) / (t + 1),
}


@pytest.mark.parametrize("name", BRUTE)
def test_of_rows(name):
    found = patterns.of_layer(WEIGHTS, REAL, ALLOWED)
    np.testing.assert_allclose(found[name], loops(BRUTE[name]), rtol=1e-12)


def test_every_statistic_is_checked():
    assert set(patterns.of_layer(WEIGHTS, REAL, ALLOWED)) - set(BRUTE) == {"effective_rank", "spread", "stability"}


def test_what_padded_queries_attend_to_changes_nothing():
    other = np.where(REAL[:, None, :, None], WEIGHTS, 1 / S)
    a, b = patterns.of_layer(WEIGHTS, REAL, ALLOWED), patterns.of_layer(other, REAL, ALLOWED)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, err_msg=name)


def test_shares_take_magnitudes_and_leave_empty_rows():
    np.testing.assert_array_equal(patterns.shares(np.array([[-1.0, 3.0], [0.0, 0.0]])), [[0.25, 0.75], [0.0, 0.0]])


def test_rows_without_keys_are_in_no_mean():
    weights = WEIGHTS.copy()
    weights[:, :, 2] = 0.0
    left = np.delete(np.arange(T), 2)
    found = patterns.mean_over_rows(weights[..., 0], weights, REAL)
    expected = [np.mean([weights[n, h, t, 0] for n in range(N) for t in left if REAL[n, t]]) for h in range(H)]
    np.testing.assert_allclose(found, expected)


def test_effective_rank():
    maps = np.stack([np.eye(T), np.full((T, T), 1 / T), np.diag([1.0] * 3 + [0.0] * (T - 3)), np.zeros((T, T))])
    np.testing.assert_allclose(patterns.effective_rank(maps[None])[0], [T, 1, 3, 0], atol=1e-9)


def test_mean_map_and_spread():
    mean, spread = patterns.mean_map(WEIGHTS, REAL), patterns.spread(WEIGHTS, REAL)
    for h, t, s in itertools.product(range(H), range(T), range(S)):
        values = [WEIGHTS[n, h, t, s] for n in range(N) if REAL[n, t]]
        assert mean[h, t, s] == pytest.approx(np.mean(values))
        assert spread[h, t, s] == pytest.approx(np.std(values), abs=1e-9)


def test_spread_of_a_head_is_that_of_what_is_within_reach():
    found, spread = patterns.of_layer(WEIGHTS, REAL, ALLOWED)["spread"], patterns.spread(WEIGHTS, REAL)
    pairs = [(t, s) for t in range(T) for s in range(t + 1)]
    np.testing.assert_allclose(found, [np.mean([spread[h, t, s] for t, s in pairs]) for h in range(H)])


def test_stability_of_fixed_and_of_disjoint_patterns():
    fixed = np.broadcast_to(WEIGHTS[:1], WEIGHTS.shape)
    real = np.ones((N, T), bool)
    np.testing.assert_allclose(patterns.stability(fixed, real), 1.0)
    two = np.zeros((2, 1, 2, 4))
    two[0, 0, :, 0] = two[1, 0, :, 3] = 1.0
    # Each is half of the mean map: total variation 1/2.
    np.testing.assert_allclose(patterns.stability(two, np.ones((2, 2), bool)), 0.5)


def test_by_position():
    found = patterns.by_position(WEIGHTS, REAL, ALLOWED)
    for h, t in itertools.product(range(H), range(T)):
        rows = [WEIGHTS[n, h, t] for n in range(N) if REAL[n, t]]
        assert found["entropy"][h, t] == pytest.approx(np.mean([surprise(row, t) for row in rows]), abs=1e-12)
        assert found["sparsity"][h, t] == pytest.approx(np.mean([BRUTE["sparsity"](row, t) for row in rows]))
    nobody = patterns.by_position(WEIGHTS, REAL & (np.arange(T) < 6), ALLOWED)
    assert np.isnan(nobody["entropy"][:, 6]).all()


def hsic(k, m):
    """The unbiased estimator of Song et al. 2012, equation 5."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    return np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)


def by_definition(x, y):
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_is_that_of_the_unbiased_estimator():
    x, y = RNG.normal(size=(11, 3)), RNG.normal(size=(11, 17))
    y[:, :3] += x
    assert similarity.cka(x, y) == pytest.approx(by_definition(x, y), rel=1e-9)


def test_cka_ignores_turning_scaling_and_shifting():
    x = RNG.normal(size=(11, 3))
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    assert similarity.cka(x, 5.0 * x @ turn + 1.0) == pytest.approx(1.0)
    assert similarity.cka(x, np.full((11, 3), np.float32(1 / 3))) == 0.0
    assert similarity.cka(x, 0.1 + 1e-9 * x) == 0.0
    assert math.isnan(similarity.cka(x[:3], x[:3]))


def test_cka_of_many_features_of_few_rows_is_not_high_by_itself():
    x, y = RNG.normal(size=(2, 40, 400))
    assert abs(similarity.cka(x, y)) < 0.1


def test_similarity_between_heads_and_layers():
    layers = [WEIGHTS, softmax(RNG.normal(size=(N, H, T, S)))]
    found = similarity.between_heads(layers, REAL)
    rows = [layer[:, h][REAL] for layer in layers for h in range(H)]
    np.testing.assert_allclose(found, [[by_definition(x, y) for x in rows] for y in rows], rtol=1e-8)
    wide = [np.concatenate([layer[:, h][REAL] for h in range(H)], -1) for layer in layers]
    np.testing.assert_allclose(similarity.between_layers(layers, REAL)[0, 1], by_definition(*wide), rtol=1e-8)
    np.testing.assert_allclose(similarity.between_heads(layers, REAL, rows=5).diagonal(), 1.0)


def test_rollout_follows_paths():
    layers = [softmax(RNG.normal(size=(N, H, T, T))) for _ in range(3)]
    found = rollout.rollout(layers)
    np.testing.assert_allclose(found.sum(-1), 1.0)
    mixed = [0.5 * (layer.mean(1) + np.eye(T)) for layer in layers]
    # The sum over all paths 4 -> i -> j -> 2, from the last layer to the first.
    paths = (mixed[2][1, 4, i] * mixed[1][1, i, j] * mixed[0][1, j, 2] for i in range(T) for j in range(T))
    assert found[1, 4, 2] == pytest.approx(sum(paths))


def test_rollout_over_a_picture():
    rolled = softmax(RNG.normal(size=(N, T, T)))
    read = rollout.over_picture(rolled, (2, 3), class_token=True)
    np.testing.assert_allclose(read[1], (rolled[1, 0, 1:] / rolled[1, 0, 1:].sum()).reshape(2, 3))
    whole = softmax(RNG.normal(size=(N, 6, 6)))
    np.testing.assert_allclose(
        rollout.over_picture(whole, (3, 2), class_token=False)[2], whole[2].mean(0).reshape(3, 2)
    )
