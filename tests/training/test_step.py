import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from jattn.config import Config, LossConfig
from jattn.optim.build import Optimizer, build
from jattn.training.losses import means
from jattn.training.state import TrainState
from jattn.training.step import make_eval_step, make_train_step, name_nonfinite, root_key, step_keys
from tests import calls
from tests.training.made_up import CLASSES, Data, Model, batch


def config(*, accumulation_steps=1, ema_decay=None, augment=False, loss="cross_entropy", smoothing=0.0, **optim):
    cfg = Config(steps=100)
    defaults = {"name": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 0.5}
    for name, value in (defaults | optim).items():
        setattr(cfg.optim, name, value)
    cfg.optim.accumulation_steps, cfg.optim.ema_decay = accumulation_steps, ema_decay
    cfg.loss.name, cfg.loss.label_smoothing = loss, smoothing
    cfg.data.augment = augment
    return cfg


@functools.cache
def initial(classes):
    """The same parameters for every variant of the model: only the number of classes changes them."""
    return jax.tree.map(jnp.asarray, calls.init(Model(classes), np.zeros((1, 5), np.float32))["params"])


@functools.cache
def start(model, optimizer=None, **options):
    """A state and the compiled step, shared by the tests that want the same."""
    cfg = config(**options)
    optimizer = optimizer or build(cfg.optim, cfg.steps)
    state = TrainState.create(initial(model.classes), optimizer.tx, cfg.optim.ema_decay is not None)
    return state, jax.jit(make_train_step(model, optimizer, cfg, Data(model.classes).prepare))


def assert_trees_close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=0), a, b)


def assert_trees_equal(a, b):
    assert_trees_close(a, b, 0)


def mean(pair):
    return float(pair[0]) / float(pair[1])


def logits_of(params, data, classes=CLASSES):
    return calls.apply(Model(classes), {"params": params}, prepared(data))


def prepared(data):
    return np.float32(data["inputs"]) / 128 - 1


@jax.jit
def whole_batch_loss(params, data):
    """The weighted mean cross-entropy, written without the trainer's losses."""
    logits = Model().apply({"params": params}, Data().prepare(data["inputs"], None, None))
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), data["targets"][:, None], axis=1)
    return -jnp.sum(picked[:, 0] * data["weight"]) / jnp.sum(data["weight"])


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_step_follows_the_gradient_of_the_weighted_mean(micro_batches):
    data = batch(0)
    state, step = start(Model(), accumulation_steps=micro_batches)
    loss, gradient = jax.device_get(jax.jit(jax.value_and_grad(whole_batch_loss))(state.params, data))
    new, metrics = step(state, data)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, jax.device_get(state.params), gradient)
    assert_trees_close(new.params, expected, 1e-6)
    assert int(new.step) == 1
    assert mean(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(metrics["loss"][1]) == np.sum(data["weight"])
    assert mean(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert mean(metrics["learning_rate"]) == 0.5
    hits = np.argmax(logits_of(state.params, data), axis=1) == data["targets"]
    assert mean(metrics["accuracy"]) == pytest.approx(np.average(hits, weights=data["weight"]))


def test_micro_batches_with_augmentation_and_momentum_equal_the_whole_batch():
    options = {"augment": True, "name": "adam", "epsilon": 1e-3, "clip_norm": 0.1, "learning_rate": 0.01}
    whole, step = start(Model(), **options)
    parts, step_in_parts = start(Model(), accumulation_steps=4, **options)
    for n in range(3):
        whole, _ = step(whole, batch(n))
        parts, _ = step_in_parts(parts, batch(n))
    assert_trees_close(whole.params, parts.params, 1e-6)


def test_micro_batches_draw_their_own_dropout():
    """Equal micro-batches with equal dropout would give the gradient of one of them, however many there are."""
    data = {name: np.repeat(x[:1], 16, axis=0) for name, x in batch(0).items()}
    data["weight"] = np.ones(16, np.float32)
    biases = []
    for parts in 2, 4:
        state, step = start(Model(dropout_rate=0.5), accumulation_steps=parts)
        state, _ = step(state, {name: x[: 4 * parts] for name, x in data.items()})
        biases.append(np.asarray(state.params["attention"]["out"]["bias"]))
    assert np.max(np.abs(biases[0] - biases[1])) > 1e-3


def test_gradient_norm_is_taken_before_clipping():
    norms = []
    for options in {}, {"clip_norm": 1e-3}:
        state, step = start(Model(), **options)
        norms.append(mean(step(state, batch(0))[1]["grad_norm"]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert norms[0] > 1e-2


def test_augmentation_belongs_to_the_example_and_changes_with_the_step():
    state, step = start(Model(), augment=True)
    data = batch(0)
    shuffled = {name: x[::-1] for name, x in data.items()}
    once, metrics = step(state, data)
    again, _ = step(state, shuffled)
    assert_trees_close(once.params, again.params, 1e-6)
    _, later = step(state.replace(step=jnp.int32(1)), data)
    _, plain = start(Model())[1](state, data)
    assert len({mean(m["loss"]) for m in (metrics, later, plain)}) == 3


def test_keys_are_a_function_of_seed_step_and_use():
    keys = [
        jax.random.key_data(key).tolist()
        for seed, step in [(0, 0), (0, 1), (1, 0)]
        for key in step_keys(root_key(seed), jnp.int32(step)).values()
    ]
    assert len({tuple(key) for key in keys}) == 9
    assert jax.random.key_data(step_keys(root_key(0), jnp.int32(1))["dropout"]).tolist() == keys[4]


def test_average_of_parameters():
    state, step = start(Model(), ema_decay=0.75)
    average = state.params
    for n in range(3):
        state, _ = step(state, batch(n))
        average = jax.tree.map(lambda a, p: 0.75 * np.asarray(a) + 0.25 * np.asarray(p), average, state.params)
    assert_trees_close(state.ema, average, 1e-6)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_regularizer_is_added_once_and_reported_apart(micro_batches):
    plain, plain_step = start(Model())
    state, step = start(Model(regularizer=0.01), accumulation_steps=micro_batches)
    assert_trees_equal(plain.params, state.params)
    plain, plain_metrics = plain_step(plain, batch(0))
    new, metrics = step(state, batch(0))
    # The span is (1, 1): its regularizer is 0.02, of gradient 0.02 each.
    np.testing.assert_allclose(new.params["span"], plain.params["span"] - 0.5 * 0.02, atol=1e-6)
    np.testing.assert_allclose(new.params["head"]["bias"], plain.params["head"]["bias"], atol=1e-6)
    assert mean(metrics["regularizer"]) == pytest.approx(0.02)
    assert mean(metrics["loss"]) == pytest.approx(mean(plain_metrics["loss"]), rel=1e-6)
    assert "regularizer" not in plain_metrics


def recorder():
    """A transformation that puts the energies and the loss it is given into its state."""

    def init(params):
        return {"energy": jnp.zeros(()), "value": jnp.zeros(())}

    def update(updates, state, params=None, *, value, energies, **_):
        (energy,) = energies["attention"]["energy"]
        return updates, {"energy": energy, "value": value}

    return optax.GradientTransformationExtraArgs(init, update)


def test_energies_reach_an_optimizer_that_reads_them():
    cfg = config()
    usual = build(cfg.optim, cfg.steps)
    stages = ("record", recorder()), ("precondition", optax.identity())
    tx = optax.named_chain(*stages, ("learning_rate", optax.scale_by_learning_rate(usual.schedule)))
    optimizer = Optimizer(tx, usual.schedule, reads_energies=True)
    state, step = start(Model(), optimizer, accumulation_steps=4)
    data = batch(0)
    new, metrics = step(state, data)
    query = state.params["attention"]["query"]
    x = prepared(data)
    energy = np.mean(np.abs(np.einsum("bc,chd->bhd", x, query["kernel"]) + query["bias"][None]))
    assert float(new.opt_state["record"]["energy"]) == pytest.approx(float(energy), rel=1e-5)
    assert float(new.opt_state["record"]["value"]) == pytest.approx(mean(metrics["loss"]), rel=1e-6)


def test_energies_are_not_computed_for_an_optimizer_that_does_not_read_them():
    asked = []

    class Collections(Model):
        def __call__(self, x, *, deterministic=True):
            asked.append({name: self.is_mutable_collection(name) for name in ("losses", "energies")})
            return super().__call__(x, deterministic=deterministic)

    state, step = start(Collections())
    step(state, batch(0))
    assert asked[-1] == {"losses": True, "energies": False}


OPTIONS = {"name": "adamw", "schedule": "plateau", "plateau_window": 1, "weight_decay": 0.1, "ema_decay": 0.9}


def test_a_non_finite_loss_voids_the_step():
    state, step = start(Model(regularizer=0.01), accumulation_steps=2, **OPTIONS)
    state, _ = step(state, batch(0))
    bad = batch(1) | {"weight": np.full(16, np.inf, np.float32)}
    new, metrics = step(state, bad)
    assert int(new.step) == 2
    assert_trees_equal(new.replace(step=state.step), state)
    flags = metrics.pop("nonfinite")
    assert all(float(x) == 0 for x in jax.tree.leaves(metrics))
    assert name_nonfinite(flags, new.params) == "the loss and the gradient of attention/out/bias"
    # The state is as good as before: the next batch trains.
    after, metrics = step(new, batch(2))
    assert not np.any(metrics["nonfinite"])
    assert mean(metrics["loss"]) > 0
    assert np.any(np.asarray(after.params["span"]) != np.asarray(new.params["span"]))


def test_a_single_non_finite_gradient_voids_the_step_and_is_named():
    state, step = start(Model(root=True), **OPTIONS)
    state = state.replace(params=state.params | {"span": jnp.array([0.0, 1.0])})
    new, metrics = step(state, batch(0))
    assert_trees_equal(new.replace(step=state.step), state)
    assert np.sum(metrics["nonfinite"]) == 1
    assert name_nonfinite(metrics["nonfinite"], new.params) == "the gradient of span"


def test_only_the_loss_can_be_named_too():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    assert name_nonfinite(np.array([True, False, False]), params) == "the loss"
    assert name_nonfinite(np.array([False, False, True]), params) == "the gradient of b"


def test_a_batch_without_any_weight_changes_nothing():
    state, step = start(Model())
    new, metrics = step(state, batch(0) | {"weight": np.zeros(16, np.float32)})
    assert_trees_equal(new.params, state.params)
    assert [float(x) for x in metrics["loss"]] == [0.0, 0.0]
    assert not np.any(metrics["nonfinite"])


def test_bfloat16_computes_in_half_precision_and_keeps_parameters():
    exact, step = start(Model())
    _, expected = step(exact, batch(0))
    state, step = start(Model(dtype=jnp.bfloat16))
    new, metrics = step(state, batch(0))
    assert {x.dtype for x in jax.tree.leaves(new.params)} == {jnp.dtype("float32")}
    assert metrics["loss"][0].dtype == jnp.float32
    assert mean(metrics["loss"]) == pytest.approx(mean(expected["loss"]), rel=1e-2)
    assert mean(metrics["loss"]) != mean(expected["loss"])
    # Of equal logits the loss is log 7, which bfloat16 does not hold.
    _, metrics = step(state.replace(params=jax.tree.map(jnp.zeros_like, state.params)), batch(0))
    assert mean(metrics["loss"]) == pytest.approx(np.log(7), rel=1e-6)


def test_loss_options_reach_the_step():
    state, step = start(Model(), loss="mean_squared_error", smoothing=0.2)
    data = batch(0)
    logits = logits_of(state.params, data)
    target = 0.8 * np.eye(7)[data["targets"]] + 0.2 / 7
    expected = np.average(np.mean((logits - target) ** 2, axis=1), weights=data["weight"])
    assert mean(step(state, data)[1]["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.3])
def test_the_threshold_of_a_single_logit_reaches_training_and_evaluation(threshold):
    model, data, cfg = Model(classes=1), batch(0, data=Data(2)), config(loss="binary_cross_entropy")
    cfg.loss.threshold = threshold
    optimizer = build(cfg.optim, cfg.steps)
    state = TrainState.create(initial(1), optimizer.tx, False)
    logits = logits_of(state.params, data, classes=1)[:, 0]
    expected = np.average((logits > threshold) == (data["targets"] == 1), weights=data["weight"])
    train_step = make_train_step(model, optimizer, cfg, Data(2).prepare)
    eval_step = make_eval_step(model, Data(2).prepare, means(cfg.loss))
    trained, evaluated = jax.jit(train_step)(state, data)[1], jax.jit(eval_step)(state.params, data)
    assert mean(trained["accuracy"]) == pytest.approx(expected)
    assert mean(evaluated["accuracy"]) == pytest.approx(expected)
    below = logits[:, None] > np.array([-0.3, 0.0, 0.3])
    assert (below[:, :1] != below[:, 1:]).any(0).all()  # the thresholds tell the examples apart


def evaluate(model, params, data):
    return jax.jit(make_eval_step(model, Data(model.classes).prepare, means(LossConfig())))(params, data)


def test_evaluation_is_deterministic_and_not_augmented():
    model, data = Model(dropout_rate=0.5, regularizer=0.1), batch(3)
    state, _ = start(model)
    metrics = evaluate(model, state.params, data)
    assert mean(metrics["loss"]) == pytest.approx(float(whole_batch_loss(state.params, data)), rel=1e-6)
    assert float(metrics["loss"][1]) == np.sum(data["weight"])
    logits = logits_of(state.params, data)
    rank = np.sum(logits > logits[np.arange(16), data["targets"]][:, None], axis=1)
    assert mean(metrics["accuracy"]) == pytest.approx(np.average(rank == 0, weights=data["weight"]))
    assert mean(metrics["top5_accuracy"]) == pytest.approx(np.average(rank < 5, weights=data["weight"]))
    assert metrics.keys() == {"loss", "accuracy", "top5_accuracy"}


def test_padding_has_no_part_in_evaluation():
    model = Model(classes=4)
    state, _ = start(model)
    data = batch(0, size=12, data=Data(4))
    padded = {name: np.concatenate([x, np.zeros_like(x[:4])]) for name, x in data.items()}
    metrics, of_padded = (evaluate(model, state.params, d) for d in (data, padded))
    assert_trees_close(metrics, of_padded, 1e-5)
    assert metrics.keys() == {"loss", "accuracy"}


def test_mixed_examples_have_both_targets_in_their_shares():
    """The example mixed in is the next one; each target's loss counts with its own example's weight."""
    data, cfg = batch(0), config(augment=True)
    own = np.linspace(0.1, 0.9, 16, dtype=np.float32)
    plain = Data()

    def mix(inputs, others, ids, key):
        share = jnp.asarray(own)[:, None]
        return share * inputs + (1 - share) * others, jnp.asarray(own)

    state, optimizer = start(Model())[0], build(cfg.optim, cfg.steps)
    step = make_train_step(Model(), optimizer, cfg, lambda x, ids, key: plain.prepare(x, ids, None), mix=mix)
    _, metrics = jax.jit(step)(state, data)

    x = prepared(data)
    x = own[:, None] * x + (1 - own[:, None]) * np.roll(x, -1, axis=0)
    log_p = special.log_softmax(calls.apply(Model(), {"params": state.params}, x), axis=-1)
    first = -log_p[np.arange(16), data["targets"]] * data["weight"]
    second = -log_p[np.arange(16), np.roll(data["targets"], -1)] * np.roll(data["weight"], -1)
    expected = np.sum(own * first + (1 - own) * second) / np.sum(data["weight"])
    np.testing.assert_allclose(mean(metrics["loss"]), expected, rtol=1e-5)

    cfg.data.augment = False
    _, unmixed = jax.jit(make_train_step(Model(), optimizer, cfg, plain.prepare, mix=mix))(state, data)
    np.testing.assert_allclose(mean(unmixed["loss"]), float(whole_batch_loss(state.params, data)), rtol=1e-5)
