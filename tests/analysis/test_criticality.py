"""Power laws, correlations, cascades, spectra and growth where the answer is known."""

import math

import numpy as np
import powerlaw
import pytest
from scipy import sparse, special, stats

from jattn.analysis import criticality, of_criticality, power_laws, report, spectra
from jattn.analysis.observe import Observed
from jattn.analysis.patterns import entropy


def test_what_differs_by_rounding_does_not_fluctuate():
    same = np.float32(0.1) + np.random.default_rng(0).choice([0, 1e-9], (8, 50))
    assert criticality.susceptibility(same, 50).max() == 0
    assert np.isnan(criticality.correlation(same)).all()
    assert criticality.susceptibility(same * np.linspace(1, 1.001, 8)[:, None], 50).min() > 0


def rng():
    return np.random.default_rng(0)


def test_a_power_law_is_recovered():
    found = power_laws.fit(power_laws.draw(rng(), 2.5, 3.0, 2000), resamples=40)
    assert found.alpha == pytest.approx(2.5, abs=3 * found.error)
    assert found.error < 0.05
    assert found.p > 0.1
    ratio, p = found.ratio["exponential"]
    assert ratio > 0
    assert p < 0.01


@pytest.mark.parametrize(("alpha", "xmin"), [(1.5, 1), (2.5, 1), (2.5, 3)])
def test_integers_are_drawn_from_the_zeta_distribution(alpha, xmin):
    count = 20000
    drawn = power_laws.draw(rng(), alpha, xmin, count, discrete=True)
    edges = np.concatenate([xmin + np.arange(6), [30, 200, 3000]])
    beyond = special.zeta(alpha, edges) / special.zeta(alpha, xmin)
    edges, beyond = edges[count * beyond > 10], beyond[count * beyond > 10]
    expected = count * -np.diff(beyond, append=0.0)
    seen = np.diff(np.searchsorted(np.sort(drawn), edges), append=count)
    assert stats.chisquare(seen, expected).pvalue > 0.01


def test_integers_beyond_the_table_are_those_of_a_longer_one(monkeypatch):
    short = power_laws.draw(rng(), 1.5, 1, 5000, discrete=True)
    monkeypatch.setattr(power_laws, "TABLE", 100_000)
    assert np.mean(short > 1024) > 0.01
    np.testing.assert_array_equal(power_laws.draw(rng(), 1.5, 1, 5000, discrete=True), short)
    assert np.isfinite(power_laws.draw(rng(), 1.01, 1, 100, discrete=True)).all()


@pytest.mark.parametrize("discrete", [True, False])
def test_p_is_uniform_where_the_law_holds(monkeypatch, discrete):
    monkeypatch.setattr(power_laws, "_ratios", lambda *_: {})  # the package's fits, which take most of the time
    random, samples, resamples = rng(), 200, 19
    data = (power_laws.draw(random, 2.5, 1, 150, discrete) for _ in range(samples))
    options = {"discrete": discrete, "xmin": 1, "resamples": resamples}
    p = [power_laws.fit(x, seed=seed, **options).p for seed, x in enumerate(data)]
    # p takes the values 0, 1/19 ... 1: of 20 ranks the data's is as likely to be one as another.
    for ranks in (2, 5, 10, 15):
        low, high = stats.binom.interval(0.99, samples, ranks / (resamples + 1))
        assert low <= np.sum(np.less(p, (ranks - 0.5) / resamples)) <= high, ranks


def test_integers_that_follow_no_power_law_are_refused():
    assert power_laws.fit(rng().geometric(0.5, 2000), discrete=True, xmin=1, resamples=40).p < 0.05
    # The usual shortcut, a rounded draw of the continuous law, is good from 6 or so.
    rounded = np.floor(0.5 * (1 - rng().random(4000)) ** (-1 / 1.5) + 0.5)
    assert power_laws.fit(rounded, discrete=True, xmin=1, resamples=40).p < 0.05


def test_what_is_no_power_law_is_refused():
    x = rng().exponential(1.0, 2000) + 1
    found = power_laws.fit(x, xmin=1.0, resamples=40)
    assert found.p < 0.05
    ratio, p = found.ratio["exponential"]
    assert ratio < 0
    assert p < 0.01


def test_a_lognormal_is_told_from_a_power_law():
    ratio, p = power_laws.fit(np.exp(rng().normal(size=3000)), xmin=0.5, resamples=0).ratio["lognormal"]
    assert ratio < 0
    assert p < 0.01


def test_fit_agrees_with_the_package():
    x = power_laws.draw(rng(), 2.2, 1.0, 500)
    other = powerlaw.Fit(x, xmin=1.5, verbose=0).power_law
    assert power_laws.fit(x, xmin=1.5, resamples=0).alpha == pytest.approx(other.alpha)
    sizes = power_laws.draw(rng(), 2.2, 6, 500, discrete=True)
    other = powerlaw.Fit(sizes, xmin=8, discrete=True, estimate_discrete=False, verbose=0).power_law
    own = power_laws.fit(sizes, xmin=8, discrete=True, resamples=0)
    assert own.alpha == pytest.approx(other.alpha, abs=2e-3)
    assert own.distance == pytest.approx(other.D, abs=2e-3)


def test_too_few_values_have_no_law():
    assert math.isnan(power_laws.fit(np.ones(30)).alpha)
    assert math.isnan(power_laws.fit(np.full(500, 2.0)).alpha)


def ising(coupling, samples, length):
    """Chains in equilibrium: neighbours agree with probability e^J / (2 cosh J)."""
    random = rng()
    agree = random.random((samples, length - 1)) < math.exp(coupling) / (2 * math.cosh(coupling))
    first = random.choice([-1, 1], (samples, 1))
    return first * np.cumprod(np.concatenate([np.ones((samples, 1)), np.where(agree, 1, -1)], 1), axis=1)


def test_an_ising_chain():
    # Correlations are tanh(J)^r, and the susceptibility is e^(2J).
    coupling, length = 0.7, 200
    spins = ising(coupling, 3000, length)
    found = criticality.correlation(spins, 5)
    np.testing.assert_allclose(found, math.tanh(coupling) ** np.arange(6), atol=0.01)
    assert criticality.correlation_length(found) == pytest.approx(-1 / math.log(math.tanh(coupling)), rel=0.02)
    assert criticality.susceptibility(spins.mean(1), length) == pytest.approx(math.exp(2 * coupling), rel=0.06)


def test_correlations_are_those_of_what_is_known():
    coupling = 0.7
    spins = ising(coupling, 3000, 200)
    known = rng().random(spins.shape) < 0.5
    known[:, 150:] = False
    found = criticality.correlation(np.where(known, 5 + spins, np.nan), 5, known)
    np.testing.assert_allclose(found, math.tanh(coupling) ** np.arange(6), atol=0.01)


def test_correlation_length_without_correlations():
    assert math.isnan(criticality.correlation_length(np.array([1.0, 0.0, 0.0])))
    assert math.isinf(criticality.correlation_length(np.ones(4)))
    assert math.isnan(criticality.correlation_length(criticality.correlation(np.ones((5, 8)))))


def test_temperature_is_that_of_the_logits():
    logits = rng().normal(size=(2, 1, 3, 5))
    logits[..., 0, 3:] = -np.inf
    weights = special.softmax(logits, -1)
    np.testing.assert_allclose(criticality.at_temperature(weights, 0.3), special.softmax(logits / 0.3, -1), atol=1e-12)
    np.testing.assert_array_equal(criticality.at_temperature(np.zeros((1, 1, 2, 3)), 2.0), 0.0)


def test_heat_capacity_is_the_slope_of_the_entropy():
    weights = special.softmax(2 * rng().normal(size=(1, 1, 4, 9)), -1)
    step = 1e-4
    hot, cold = (entropy(criticality.at_temperature(weights, 1 + s)) for s in (step, -step))
    slope = (hot - cold) / (math.log1p(step) - math.log1p(-step))
    np.testing.assert_allclose(criticality.heat_capacity(weights), slope, rtol=1e-5)


def test_a_branching_process_at_its_critical_point():
    # Poisson(1) children in disjoint places: sizes of trees follow the Borel distribution, P(s) ~ s^-3/2.
    random, roots, generations = rng(), 3000, 400  # so many that none but trees of some 1e5 places are cut off
    links, places = [], roots
    for _ in range(generations):
        children = random.poisson(1.0, places)
        parent = np.repeat(np.arange(places), children)
        links.append(sparse.csr_matrix((np.ones(len(parent)), (np.arange(len(parent)), parent)), (len(parent), places)))
        places = len(parent)
    sizes = criticality.cascade_sizes(links)
    for s in (1, 2, 3):
        expected = math.exp(-s) * s ** (s - 1) / math.factorial(s)
        assert abs(np.mean(sizes == s) - expected) < 2 * math.sqrt(expected * (1 - expected) / roots)
    assert power_laws.fit(sizes, discrete=True, resamples=0).alpha == pytest.approx(1.5, abs=0.03)
    tail = power_laws.fit(sizes, discrete=True, xmin=5, resamples=20)
    assert tail.alpha == pytest.approx(1.5, abs=3 * tail.error)
    assert tail.error < 0.02
    assert tail.p > 0.1


def observed(*layers):
    """Of weights (N, H, T, S) without padding."""
    (N, H, T, S), depth = layers[0].shape, len(layers)
    real, allowed = np.ones((N, T), bool), np.ones((N, T, S), bool)
    return Observed(np.arange(N), real, list(range(depth)), [list(range(H))] * depth, [*layers], real, allowed, True)


def test_attention_to_one_random_key_is_a_critical_branching_process():
    # A key is chosen by Binomial(T, 1 / T) queries, one on the average.
    N, T, depth = 4, 256, 32
    random, made = rng(), report.Report({})
    one = np.eye(T, dtype=np.float32)
    of_criticality._cascades(made, observed(*(one[random.integers(0, T, (N, 1, T))] for _ in range(depth))))
    found = made.values["cascades"]
    assert len(found["sizes"]) == N * T
    assert np.mean(found["sizes"] == 1) == pytest.approx((1 - 1 / T) ** T, abs=0.03)
    assert found["alpha"] == pytest.approx(1.5, abs=0.05)


def test_a_sweep_of_random_energies(monkeypatch):
    # Scores E with density exp(-E), many keys: below temperature 1 shares are those of the random energy model's frozen
    # phase (Poisson-Dirichlet), of which sum p^2 is 1 - t on the average, with variance t (1 - t) / 3 (Derrida and
    # Toulouse 1985), and the entropy psi(1) - psi(1 - t); above, their tail has exponent 1 + t.
    monkeypatch.setattr(of_criticality, "TEMPERATURES", (0.25, 0.5, 2.0))
    weights = special.softmax(rng().exponential(size=(400, 2, 2, 400)), -1)
    *frozen, hot = of_criticality.sweep(weights, observed(weights))
    for at in frozen:
        t = at["temperature"]
        assert at["order"] == pytest.approx(1 - t, abs=0.02)
        assert at["susceptibility"] == pytest.approx(t * (1 - t) / 3, rel=0.15)
        assert at["entropy"] == pytest.approx(special.digamma(1) - special.digamma(1 - t), rel=0.05)
        assert at["heat_capacity"] == pytest.approx(t * special.polygamma(1, 1 - t), rel=0.1)
    assert hot["alpha"] == pytest.approx(3.0, abs=3 * hot["error"])
    assert hot["p"] > 0.1
    assert hot["against_exponential"]["ratio"] > 0
    assert hot["against_exponential"]["p"] < 0.01


def test_scores_of_ising_chains_have_their_correlation_length(monkeypatch):
    # Shares of two values are a chain's spins at every temperature.
    monkeypatch.setattr(of_criticality, "TEMPERATURES", (0.5, 1.0))
    coupling = 0.7
    weights = special.softmax(0.3 * ising(coupling, 400, 500), -1).reshape(100, 1, 4, 500)
    for at in of_criticality.sweep(weights, observed(weights)):
        assert at["correlation_length"] == pytest.approx(-1 / math.log(math.tanh(coupling)), rel=0.08)


def test_cascades_merge_and_end():
    # 0 and 1 feed the same place; 2 feeds none.
    links = [np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]]), np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])]
    np.testing.assert_array_equal(criticality.cascade_sizes(links), [4, 4, 1])
    # 0 feeds two places, and both of them one: it is reached once.
    diamond = [np.array([[1, 0], [1, 0]]), np.array([[1, 1], [0, 0]])]
    np.testing.assert_array_equal(criticality.cascade_sizes(diamond), [4, 1])


def test_strong_links():
    own = [[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.5, 0.4, 0.1]]
    weights = np.array([own, [*own[:2], [0.1, 0.6, 0.3]]])
    allowed = np.tril(np.ones((3, 3), bool))
    # Means over heads are 0.8 of two keys, and 0.3, 0.5 and 0.2 of three.
    links = [[False] * 3, [True, False, False], [False, True, False]]
    np.testing.assert_array_equal(criticality.strong_links(weights, allowed, 1.45), links)


def test_a_gaussian_matrix_ends_at_the_marchenko_pastur_edge():
    found = spectra.spectrum(0.3 * rng().normal(size=(400, 200)))
    assert found.eigenvalues[-1] == pytest.approx(0.09 * (1 + math.sqrt(0.5)) ** 2, rel=0.03)
    assert found.edge == pytest.approx(0.09 * (1 + math.sqrt(0.5)) ** 2, rel=0.02)
    assert found.outside == 0.0
    assert found.eigenvalues.mean() == pytest.approx(0.09, rel=0.01)


def test_a_spike_lies_outside():
    w = rng().normal(size=(200, 100))
    spiked = w + 5 * np.ones((200, 1)) @ np.ones((1, 100)) / 10
    assert spectra.spectrum(spiked).outside == pytest.approx(0.01)
    assert spectra.spectrum(np.ones((5, 3))).stable_rank == pytest.approx(1.0)


def test_a_heavy_tailed_spectrum_has_its_exponent():
    values = power_laws.draw(rng(), 2.5, 1.0, 400)
    left, right = (np.linalg.qr(rng().normal(size=(400, 400)))[0] for _ in range(2))
    found = spectra.spectrum((left * np.sqrt(values)) @ right)
    np.testing.assert_allclose(found.eigenvalues, np.sort(values) / 400, rtol=1e-6)
    assert found.tail.alpha == pytest.approx(2.5, abs=3 * found.tail.error)


def test_growth_in_a_random_linear_network():
    # ln |W x| / |x| of a Gaussian matrix: ln g + (digamma(n / 2) + ln(2 / n)) / 2 on the average.
    random, gain, width, depth = rng(), 1.3, 50, 30
    x = random.normal(size=(20, width))
    states, perturbed = [x], [x + 1e-6 * random.normal(size=x.shape)]
    for _ in range(depth):
        w = gain * random.normal(size=(width, width)) / math.sqrt(width)
        states.append(states[-1] @ w)
        perturbed.append(perturbed[-1] @ w)
    expected = math.log(gain) + 0.5 * (special.digamma(width / 2) + math.log(2 / width))
    assert criticality.growth(states, perturbed).mean() == pytest.approx(expected, abs=0.03)
