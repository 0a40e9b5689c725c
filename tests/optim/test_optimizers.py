import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jattn.config import OptimConfig
from jattn.errors import UserError
from jattn.optim.build import MUON_RMS, OPTIMIZERS, build

PARAMS = {"dense": {"kernel": np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]]), "bias": np.array([0.5, -1.5, 2.0])}}
GRADIENTS = [
    {"dense": {"kernel": np.array([[0.3, -0.1, 2.0], [1.0, 0.0, -4.0]]) * s, "bias": np.full(3, 0.7) * s}}
    for s in (1.0, -0.5, 2.0)
]


def config(**options):
    return OptimConfig(**({"schedule": "constant", "learning_rate": 0.1} | options))


def compiled(tx):
    """An update of parameters and state in one program."""

    @jax.jit
    def update(params, state, gradient, **extra):
        updates, state = tx.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return update


def run(options, params=PARAMS, gradients=GRADIENTS, losses=None):
    """The parameters after each update, as a list of trees of NumPy arrays, and the last state."""
    optimizer = build(options, 100)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    update = compiled(optimizer.tx)
    state, trail = jax.jit(optimizer.tx.init)(params), []
    for n, gradient in enumerate(gradients):
        gradient = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)
        params, state = update(params, state, gradient, value=np.float32(losses[n] if losses else 1.0))
        trail.append(jax.tree.map(np.asarray, params))
    return trail, state


def adam_by_hand(decay_kernel=0.0, decay_bias=0.0, l2=0.0, rate=0.1, b1=0.9, b2=0.99, eps=1e-3):
    """Algorithm 2 of Loshchilov & Hutter 2019, in float64."""
    result = {"dense": {}}
    for name, decay in ("kernel", decay_kernel), ("bias", decay_bias):
        p, m, v = PARAMS["dense"][name].copy(), 0.0, 0.0
        for t, gradient in enumerate(GRADIENTS, start=1):
            g = gradient["dense"][name] + (l2 if name == "kernel" else 0.0) * p
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            p = p - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
        result["dense"][name] = p
    return result


def assert_close(actual, expected, rtol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), actual, expected)


ADAM = {"beta2": 0.99, "epsilon": 1e-3}


def test_adamw_decays_kernels_apart_from_the_gradient():
    trail, _ = run(config(name="adamw", weight_decay=0.3, **ADAM))
    assert_close(trail[-1], adam_by_hand(decay_kernel=0.3))


def test_adam_with_decoupled_decay_is_adamw():
    adamw, _ = run(config(name="adamw", weight_decay=0.3, **ADAM))
    adam, _ = run(config(name="adam", weight_decay=0.3, **ADAM))
    assert_close(adam[-1], adamw[-1], rtol=0)


def test_l2_decay_goes_through_the_preconditioner():
    trail, _ = run(config(name="adam", weight_decay=0.3, decay_coupling="l2", **ADAM))
    assert_close(trail[-1], adam_by_hand(l2=0.3))


def test_decay_of_all_parameters():
    trail, _ = run(config(name="adamw", weight_decay=0.3, decay_scope="all", **ADAM))
    assert_close(trail[-1], adam_by_hand(decay_kernel=0.3, decay_bias=0.3))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    p, trace = PARAMS["dense"]["bias"].copy(), 0.0
    for gradient in GRADIENTS:
        g = gradient["dense"]["bias"]
        trace = g + 0.8 * trace
        p = p - 0.1 * (g + 0.8 * trace if nesterov else trace)
    trail, _ = run(config(name="sgd", momentum=0.8, nesterov=nesterov))
    assert_close(trail[-1]["dense"]["bias"], p)


def test_sgd_without_momentum_keeps_no_state():
    trail, state = run(config(name="sgd", momentum=0.0))
    total = sum(gradient["dense"]["kernel"] for gradient in GRADIENTS)
    assert_close(trail[-1]["dense"]["kernel"], PARAMS["dense"]["kernel"] - 0.1 * total)
    assert jax.tree.leaves(state["precondition"]) == []


def test_lion_steps_by_the_sign():
    p, m = PARAMS["dense"]["kernel"].copy(), 0.0
    for gradient in GRADIENTS:
        g = gradient["dense"]["kernel"]
        p = p - 0.1 * (np.sign(0.9 * m + 0.1 * g) + 0.2 * p)
        m = 0.5 * m + 0.5 * g
    trail, _ = run(config(name="lion", beta2=0.5, weight_decay=0.2))
    assert_close(trail[-1]["dense"]["kernel"], p)


def test_clipping_scales_all_gradients_by_the_global_norm():
    gradient = GRADIENTS[0]
    norm = np.sqrt(sum(np.sum(x**2) for x in gradient["dense"].values()))
    trail, _ = run(config(name="sgd", momentum=0.0, clip_norm=0.5), gradients=[gradient])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g * 0.5 / norm, PARAMS, gradient)
    assert_close(trail[0], expected)
    trail, _ = run(config(name="sgd", momentum=0.0, clip_norm=2 * norm), gradients=[gradient])
    assert_close(trail[0], jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient))


def test_each_gradient_can_be_clipped_alone():
    gradient = GRADIENTS[2]["dense"]
    limit = 1.5 * np.linalg.norm(gradient["bias"])
    trail, _ = run(config(name="sgd", momentum=0.0, clip_each=limit), gradients=GRADIENTS[2:])
    shortened = gradient["kernel"] * limit / np.linalg.norm(gradient["kernel"])
    assert_close(trail[0]["dense"]["kernel"], PARAMS["dense"]["kernel"] - 0.1 * shortened)
    assert_close(trail[0]["dense"]["bias"], PARAMS["dense"]["bias"] - 0.1 * gradient["bias"])
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    assert_close(run(config(name="sgd", clip_each=1.0), gradients=[zeros])[0][0], PARAMS)


def test_adagrad_divides_by_the_root_of_the_sum_of_squares():
    p, total = PARAMS["dense"]["kernel"].copy(), 0.0
    for gradient in GRADIENTS:
        g = gradient["dense"]["kernel"]
        total = total + g**2
        p = p - 0.1 * g / np.sqrt(np.where(total == 0, 1, total))
    trail, _ = run(config(name="adagrad", epsilon=1e-10))
    assert_close(trail[-1]["dense"]["kernel"], p)


def test_l2_decay_is_not_clipped():
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    options = {"momentum": 0.0, "weight_decay": 0.5, "decay_coupling": "l2", "clip_norm": 1e-6}
    trail, _ = run(config(name="sgd", **options), gradients=[zeros])
    assert_close(trail[0]["dense"]["kernel"], 0.95 * PARAMS["dense"]["kernel"])


@pytest.mark.parametrize(("module", "shape", "matrix"), [("query", (7, 2, 3), (7, 6)), ("out", (2, 3, 7), (6, 7))])
def test_muon_sees_the_kernels_of_attention_as_matrices(module, shape, matrix):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, *shape))
    nested, _ = run(
        config(name="muon", momentum=0.8, nesterov=True),
        {module: {"kernel": np.zeros(shape)}},
        [{module: {"kernel": g}} for g in gradients],
    )
    flat = contrib.muon(0.1, beta=0.8, nesterov=True, consistent_rms=MUON_RMS)
    params = {"w": jnp.zeros(matrix)}
    state, update = jax.jit(flat.init)(params), compiled(flat)
    for g in gradients:
        params, state = update(params, state, {"w": jnp.asarray(g.reshape(matrix), jnp.float32)})
    kernel = nested[-1][module]["kernel"].reshape(matrix)
    np.testing.assert_allclose(kernel, params["w"], atol=1e-6)
    # Newton-Schulz leaves singular values between 0.5 and 1.5, and so the update's root mean square.
    rms = np.sqrt(np.mean(np.square(nested[0][module]["kernel"])))
    assert 0.5 < rms / (0.1 * MUON_RMS) < 1.5


def test_muon_leaves_the_rest_to_adam():
    trail, _ = run(config(name="muon", **ADAM))
    assert_close(trail[-1]["dense"]["bias"], adam_by_hand()["dense"]["bias"])


def test_plateau_halves_after_patience_windows_without_improvement():
    options = config(
        name="sgd", momentum=0.0, schedule="plateau", plateau_window=2, plateau_patience=3, plateau_factor=0.5
    )
    # Means of windows of two: 3.5 is the best so far, three windows are no better, then a better one.
    losses = [4.0, 3.0, 3.0, 4.0, 3.4, 3.6, 5.0, 5.0, 1.0, 1.0, 1.0]
    ones = jax.tree.map(np.ones_like, PARAMS)
    trail, _ = run(options, gradients=[ones] * len(losses), losses=losses)
    bias = [PARAMS["dense"]["bias"][0], *(p["dense"]["bias"][0] for p in trail)]
    # The window that exhausts the patience ends with update 8, which already is made at half the rate.
    np.testing.assert_allclose(-np.diff(bias), [0.1] * 7 + [0.05] * 4, rtol=1e-5)


def test_parameters_out_of_the_schedule_s_scope_keep_the_learning_rate():
    options = config(name="sgd", momentum=0.0, schedule="step", step_size=1, step_gamma=0.5, schedule_scope="linear")
    ones = jax.tree.map(np.ones_like, PARAMS)
    trail, state = run(options, gradients=[ones] * 3)
    for name, expected in ("kernel", [0.1, 0.05, 0.025]), ("bias", [0.1] * 3):
        values = np.stack([PARAMS["dense"][name], *(p["dense"][name] for p in trail)])
        np.testing.assert_allclose(-np.diff(values, axis=0).reshape(3, -1)[:, 0], expected, rtol=1e-5)
    assert float(build(options, 100).learning_rate(state)) == pytest.approx(0.025)


def test_learning_rate_is_that_of_the_last_update():
    options = config(name="sgd", schedule="linear", warmup_steps=4, learning_rate=0.8)
    optimizer = build(options, 8)
    for updates, expected in (1, 0.0), (2, 0.2), (5, 0.8), (7, 0.4):
        assert rate_after(optimizer, updates) == pytest.approx(expected)


def test_learning_rate_includes_the_plateau_factor():
    options = config(name="sgd", schedule="plateau", plateau_window=1, plateau_patience=2, plateau_factor=0.25)
    optimizer = build(options, 8)
    for updates, expected in (1, 0.1), (2, 0.1), (3, 0.025), (5, 0.00625):
        assert rate_after(optimizer, updates) == pytest.approx(expected)


def rate_after(optimizer, updates):
    @jax.jit
    def rate(params):
        state = optimizer.tx.init(params)
        for _ in range(updates):
            _, state = optimizer.tx.update(params, state, params, value=jnp.ones(()))
        return optimizer.learning_rate(state)

    return float(rate({"w": jnp.ones(3)}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_compiles_once(name):
    rate = 0.1 if name == "adagrad" else 0.02  # its steps get shorter by themselves
    optimizer = build(config(name=name, learning_rate=rate, clip_norm=10.0, weight_decay=1e-3), 200)
    params = {"dense": {"kernel": jnp.eye(3, 5), "bias": jnp.ones(5)}}
    traces = []

    @jax.jit
    def update(params, state):
        traces.append(1)
        loss, gradient = jax.value_and_grad(lambda p: optax.tree.norm(p, squared=True))(params)
        updates, state = optimizer.tx.update(gradient, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.tx.init(params), []
    for _ in range(60):
        params, state, loss = update(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamv"}, "unknown optimizer 'adamv': did you mean"),
        ({"decay_scope": "kernel"}, "unknown decay scope 'kernel': did you mean 'kernels'"),
        ({"schedule_scope": "kernel"}, "unknown schedule scope 'kernel': did you mean 'kernels'"),
        ({"step_limit": 0}, "optim.step_limit=0 is out of range: it must be at least 1"),
        ({"decay_coupling": "l1"}, "unknown decay coupling 'l1'"),
        ({"name": "adamw", "decay_coupling": "l2"}, "use optim.name=adam"),
        ({"learning_rate": -0.1}, "optim.learning_rate=-0.1 is out of range: it must be finite and not neg"),
        ({"learning_rate": float("nan")}, "optim.learning_rate=nan"),
        ({"warmup_steps": -1}, "optim.warmup_steps=-1"),
        ({"warmup_steps": 101}, "warmup_steps=101 is longer than the run of 100 steps"),
        ({"final_fraction": 1.5}, "between 0 and 1"),
        ({"step_size": 0}, "optim.step_size=0 is out of range: it must be at least 1"),
        ({"plateau_factor": 1.0}, "above 0 and below 1"),
        ({"beta1": 1.0}, "optim.beta1=1.0"),
        ({"epsilon": 0.0}, "optim.epsilon=0.0"),
        ({"clip_norm": 0.0}, "optim.clip_norm=0.0"),
        ({"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
        ({"accumulation_steps": 0}, "optim.accumulation_steps=0"),
        ({"ema_decay": 1.0}, "optim.ema_decay=1.0"),
    ],
)
def test_what_a_user_can_get_wrong(options, message):
    with pytest.raises(UserError, match=message):
        build(config(**options), 100)
