"""The fused kernels: interpreted here, lowered for CUDA without a GPU, and run on one by `pytest -m gpu`."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core import (
    IMPLEMENTATIONS,
    MLP,
    Added,
    Allowed,
    AtLeast,
    ByLag,
    BySlot,
    Causal,
    Distance,
    Dot,
    Filled,
    Shifted,
    SoftSpan,
    TriangleWave,
    Window,
    XPos,
    attend,
    explain,
    native_implementations,
)
from jattn.core.block_sizes import BlockSizes, Sizes, sizes_for
from jattn.core.call import group
from jattn.core.pallas_gpu import pallas_gpu
from jattn.core.tiles import parts_of
from jattn.errors import UserError
from tests.core.cases import BATCH, CASES, HEADS, KEY_HEADS, KEYS, QUERIES, Fade, attended, cast, tokens
from tests.core.test_attend import agree, both, differentiated, divided
from tests.core.test_blocks import poisoned

SMALL = Sizes(BlockSizes(16, 32), BlockSizes(32, 16), BlockSizes(16, 64))
"""Several blocks of either kind, of other sizes in each kernel, and no power of two times one another in number."""


def random(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape))


def neural(*units, queries=QUERIES, keys=KEYS):
    """A score by a network whose layers have so many units; an output of one comes last."""
    layers = list(zip(units, (*units[1:], 1), strict=True))
    score = MLP.of(
        [random(i, HEADS, *shape) for i, shape in enumerate(layers)], [random(9, HEADS, o) for _, o in layers]
    )
    q, k = (
        tuple(random(seed + i, BATCH, heads, count) for i in range(units[0]))
        for seed, heads, count in ((20, HEADS, queries), (40, KEY_HEADS, keys))
    )
    return {"q": q, "k": k, "v": tokens(keys=keys)["v"], "score": score, "bias": Causal(), "offset": keys - queries}


def span_and_wave():
    spread = jnp.linspace(0.0, 1.0, HEADS)
    wave = TriangleWave(period=9.3 + 40 * spread, ratio=0.05 + 0.1 * spread)
    return {**tokens(), "bias": Causal() + SoftSpan(3.3 + 90 * spread, softness=13) + wave, "offset": 97}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tilted:
    """A dot product of the largest features, tilted by riders that examples and heads share."""

    def __call__(self, q, k, q_pos, k_pos):
        largest = q["features"].max(1)[:, None] * k["features"].max(1)[None, :]
        return largest * q["gain"][:, None] + k["tilt"][None, :] - jax.nn.softplus(k["features"]).min(1)[None, :]


def shared_riders():
    call = tokens()
    q, k = {"features": call["q"], "gain": random(1, 1, 1, QUERIES)}, {"features": call["k"]}
    return {**call, "q": q, "k": {**k, "tilt": random(2, BATCH, 1, KEYS)}, "score": Tilted()}


def riders(of_queries, call=None, **terms):
    call = tokens() if call is None else call
    return {**call, "q": {"features": call["q"], **of_queries}, **terms}


def pairs():
    return jnp.asarray(np.random.default_rng(6).random((BATCH, 1, QUERIES, KEYS)) < 0.3)


MORE = {
    "neural, 2 units": lambda: neural(2, 2),
    "neural, 3 units, deep": lambda: neural(3, 2, 2),
    "span and wave": span_and_wave,
    "riders that heads share": shared_riders,
    "threshold, filled, beyond the keys": lambda: riders(
        {"threshold": 0.5 * random(3, BATCH, HEADS, QUERIES), "allowed": pairs()},
        score=AtLeast(Filled(Dot(), Allowed(), -1e3)),
        bias=Causal() + Window(17, 0),
        offset=KEYS - 97,
    ),
    "shifted, more queries": lambda: riders(
        {"left": jnp.arange(KEYS)[None, None] % 17},
        tokens(queries=KEYS, keys=QUERIES),
        score=Distance(),
        mask=Shifted(17),
        bias=Causal(),
    ),
}

WITHIN_OTHERS = {
    "causal, more queries": "shifted, more queries",
    "causal window beyond the keys": "threshold, filled, beyond the keys",
    "padding, empty rows": "array of pairs",
    "learned network score": "learned score and bias, padding",
}
"""Cases all of whose parts another one has, too: a GPU takes both."""

INTERPRETED = [name for name in (*CASES, *MORE) if name not in WITHIN_OTHERS]


@pytest.fixture
def small_blocks(monkeypatch):
    run = functools.partial(pallas_gpu, sizes=SMALL)
    monkeypatch.setitem(IMPLEMENTATIONS, "pallas_gpu", dataclasses.replace(IMPLEMENTATIONS["pallas_gpu"], run=run))


def check(name):
    call = cast({**CASES, **MORE}[name](), jnp.float32)
    with jax.default_matmul_precision("float32"):
        agree(both(call, "pallas_gpu"), both(call, "dense"), atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", [name for name in INTERPRETED if name != "neural, 2 units"])  # that is in float16
def test_interpreted_value_and_gradient(name):
    check(name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_value_and_gradient_on_a_gpu(name):
    check(name)


def low_precision(name, dtype):
    """Against float32 on the same rounded inputs, relative to the largest."""
    call = cast({**CASES, **MORE}[name](), dtype)
    (out, lse), gradients = both(call, "pallas_gpu")
    expected = both(cast(call, jnp.float32), "dense")
    assert (out.dtype, lse.dtype) == (dtype, jnp.float32)
    assert {x.dtype for x in gradients} == {jnp.dtype(dtype)}
    for x, y in zip(jax.tree.leaves(((out, lse), gradients)), jax.tree.leaves(expected), strict=True):
        finite = np.isfinite(y)
        largest = float(np.abs(np.where(finite, y, 0)).max())
        np.testing.assert_allclose(np.asarray(x, np.float32)[finite], y[finite], atol=2e-2 * largest)


LOW_PRECISION = "causal, equal heads", "neural, 2 units", "span and wave", "padding, empty rows"


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("name", "dtype"), [("causal, equal heads", jnp.bfloat16), ("neural, 2 units", jnp.float16)])
def test_interpreted_low_precision(name, dtype):
    low_precision(name, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", LOW_PRECISION)
def test_low_precision_on_a_gpu(name, dtype):
    low_precision(name, dtype)


def lowered(call):
    """The program for CUDA of a call's value and gradient, compiled as far as that goes without a GPU."""
    smooth = {name: call.pop(name) for name in ("q", "k", "v", "score", "bias") if jax.tree.leaves(call.get(name))}
    fused = functools.partial(pallas_gpu, interpret=False)

    def loss(smooth):
        out, lse = fused(group(**{**ABSENT, **call, **smooth}, example=jnp.arange(BATCH), head=jnp.arange(HEADS)))
        return out.astype(jnp.float32).sum() + lse.sum()

    traced = jax.jit(jax.value_and_grad(loss, allow_int=True)).trace(smooth)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


ABSENT = {"score": Dot(), "bias": None, "mask": None, "offset": 0, "dropout": None}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, jnp.float32) for name in INTERPRETED),
        ("neural, 2 units", jnp.bfloat16),
        ("padding, empty rows", jnp.float16),
        ("span and wave", jnp.bfloat16),
    ],
)
def test_lowers_for_cuda(name, dtype):
    assert lowered(cast({**CASES, **MORE}[name](), dtype)).count("xla.gpu.triton") == 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Assorted:
    """All sorts of functions, smooth and not, of a pair's product and places."""

    def __call__(self, q, k, q_pos, k_pos):
        x = q @ k.T
        lag = q_pos[:, None] - k_pos[None, :]
        smooth = [jnp.sin, jnp.cos, jnp.tan, jnp.tanh, jnp.exp, jnp.exp2, jnp.expm1, jnp.sinh, jnp.cosh, jnp.square]
        smooth += [jax.nn.sigmoid, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jnp.abs, jnp.negative]
        of_positive = [jnp.log, jnp.log1p, jnp.sqrt, jax.lax.rsqrt, lambda x: x**-2, lambda x: x**0.3]
        steps = [jnp.sign, jnp.floor, jnp.ceil, lambda x: x % 3, lambda x: jnp.clip(x, -1, 1), jnp.minimum]
        total = sum(f(x) for f in smooth) + sum(f(1 + x * x) for f in of_positive)
        total += sum(f(x) if f is not jnp.minimum else f(x, 1.0) for f in steps) + jnp.arctan2(x, 2.0)
        bits = ((lag << 1) ^ (lag >> 2) | 5) & ~lag.astype(jnp.uint32).astype(jnp.int32)
        odd = (lag % 3 != 1) | (lag // 2 >= 4) & ~(lag < -2) | jnp.isfinite(x)
        return jnp.where(odd, total, bits.astype(jnp.float32) + (lag.astype(jnp.uint32) >> 3).astype(jnp.float32))


def test_functions_of_all_sorts_lower_for_cuda():
    call = cast({**tokens(), "score": Assorted()}, jnp.float32)
    assert explain(**call, implementation="pallas_gpu").implementation == "pallas_gpu"
    assert lowered(call).count("xla.gpu.triton") == 3


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(1, jnp.bfloat16), (24, jnp.float16), (80, jnp.bfloat16), (256, jnp.float16)]
)
def test_any_head_size_lowers_for_cuda(head_dim, dtype):
    q, k, v = (random(i, BATCH, heads, 200, head_dim) for i, heads in enumerate((HEADS, KEY_HEADS, KEY_HEADS)))
    assert lowered(cast({"q": q, "k": k, "v": v, "bias": Causal()}, dtype)).count("xla.gpu.triton") == 3


@pytest.mark.usefixtures("small_blocks")
def test_blocks_out_of_reach_are_never_touched():
    call = {**cast(tokens(queries=40), jnp.float32), "bias": Causal() + Window(9, 4), "offset": 240}
    poison = poisoned(call, 191)  # 240 - 9 lies behind 191, an end of blocks of keys
    (clean, rest), (poison, _) = map(divided, (call, poison))
    run = differentiated(rest, "pallas_gpu")
    jax.tree.map(np.testing.assert_array_equal, run(poison), run(clean))


@pytest.mark.usefixtures("small_blocks")
def test_each_head_visits_the_blocks_within_its_own_reach():
    call = cast(tokens(queries=40, key_heads=HEADS), jnp.float32)
    bias = Fade(jnp.asarray([40.5, 40.5, 40.5, 40.5, 40.5, 140.5]), jnp.zeros(HEADS))
    out, _ = attended({**poisoned(call, 127), "bias": bias, "offset": 240}, "pallas_gpu")
    assert np.isfinite(out[:, :5]).all()
    assert np.isnan(out[:, 5]).any()


@pytest.mark.usefixtures("small_blocks")
def test_per_example_gradients():
    call = cast(tokens(key_heads=HEADS), jnp.float32)

    def loss(q, k, v, implementation="pallas_gpu"):
        out, lse = attend(q, k, v, bias=Causal(), offset=150, implementation=implementation)
        return (out**2).sum() + jnp.sin(lse).sum()

    each = jax.jit(jax.vmap(jax.grad(lambda *x: loss(*(y[None] for y in x)))))(call["q"], call["k"], call["v"])
    expected = jax.jit(jax.grad(functools.partial(loss, implementation="dense")))(call["q"], call["k"], call["v"])
    np.testing.assert_allclose(each, expected, atol=2e-5, rtol=1e-4)


def test_derivatives_that_kernels_lack_raise_a_sentence():
    call = cast(tokens(queries=16, keys=16), jnp.float32)

    def loss(q):
        return (attend(**{**call, "q": q}, implementation="pallas_gpu")[0] ** 2).sum()

    q = call["q"]
    with pytest.raises(TypeError, match=r"forward-mode .* does not exist: .*implementation=\"dense\""):
        jax.jvp(loss, (q,), (q,))
    no_second = r"of the gradients .* do not exist: .*\"blockwise\".* forward over reverse .*implementation=\"dense\""
    with pytest.raises(TypeError, match=no_second):
        jax.jvp(jax.grad(loss), (q,), (q,))
    with pytest.raises(TypeError, match=no_second):
        jax.grad(lambda q: (jax.grad(loss)(q) ** 2).sum())(q)


def test_a_policy_can_keep_the_output_instead_of_running_the_kernel_again():
    call = cast(tokens(queries=16, keys=16), jnp.float32)

    def kernels(policy):
        f = jax.checkpoint(lambda q: attend(**{**call, "q": q}, implementation="pallas_gpu")[0].sum(), policy=policy)
        return str(jax.make_jaxpr(jax.grad(lambda q: f(q) ** 2))(call["q"])).count("pallas_call[")

    keep = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    assert kernels(keep) == 3
    assert kernels(jax.checkpoint_policies.nothing_saveable) == 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slopes:
    """A bias of several heads that has no parameters."""

    def __call__(self, lag):
        return -jnp.abs(lag)[None] * jnp.arange(1.0, HEADS + 1).reshape(-1, *(1,) * lag.ndim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ranked:
    def __call__(self, q, k, q_pos, k_pos):
        return jnp.sort(q @ k.T, axis=1)


def placed():
    call = tokens(queries=KEYS)
    place = jnp.arange(KEYS)[None, None]
    return {**call, "q": {"features": call["q"], "place": place}, "k": {"features": call["k"], "place": place}}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: {**tokens(), "score": Ranked()}, "uses sort"),
        (lambda: {**placed(), "score": BySlot(Dot(), jnp.zeros((HEADS, 8, 16)), 1)}, "uses gather"),
        (lambda: {**tokens(), "bias": ByLag(jnp.zeros((HEADS, 9)), -4)}, "uses scatter-add"),
        (lambda: riders({"added": jnp.zeros((1, HEADS, QUERIES, KEYS))}, score=Added(Dot())), "uses scatter-add"),
        (lambda: {**tokens(), "score": XPos(1.0, 32, 64)}, "holds an array that is not a parameter"),
        (lambda: {**tokens(), "bias": Slopes()}, "one head's parameters has 6 heads"),
        (
            lambda: {**tokens(), "q": jnp.zeros((2, 6, 3, 257)), "k": jnp.zeros((2, 3, KEYS, 257))},
            "features .* not 257",
        ),
        (lambda: {**tokens(), "v": jnp.zeros((2, 3, KEYS, 257))}, "values of 1 to 256"),
        (lambda: tokens(queries=0), "queries and keys"),
        (
            lambda: {
                **tokens(),
                "mask": Shifted(3),
                "q": {"features": tokens()["q"], "left": jnp.int8(0)[None, None, None]},
            },
            "does not fit|not int8",
        ),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_the_reason(call, reason):
    with pytest.raises((UserError, ValueError), match=reason):
        attend(**cast(call(), jnp.float32), implementation="pallas_gpu")


def test_float64_is_refused():
    with jax.enable_x64(True), pytest.raises(UserError, match="not float64"):
        attend(**tokens(), implementation="pallas_gpu")


def test_without_a_gpu_it_is_taken_only_when_named(monkeypatch):
    call = cast(tokens(), jnp.float32)
    assert "pallas_gpu" not in native_implementations()
    choice = explain(**call)
    assert (choice.implementation, choice.reasons["pallas_gpu"]) == ("blockwise", "it needs an NVIDIA GPU")
    assert explain(**call, implementation="pallas_gpu").implementation == "pallas_gpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert native_implementations() == list(IMPLEMENTATIONS)
    choice = explain(**call)
    assert (choice.implementation, "no GPU has run it yet" in choice.reasons["pallas_gpu"]) == ("blockwise", True)
    reasons = explain(**cast(placed(), jnp.float32), score=BySlot(Dot(), jnp.zeros((6, 8, 16)), 1)).reasons
    assert "uses gather" in reasons["pallas_gpu"]
    for capability, reason in (("9.0", None), ("12.1", None), ("7.5", "capability"), ("gfx942", "capability")):
        device = types.SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        if reason is None:
            assert explain(**call, implementation="pallas_gpu").implementation == "pallas_gpu"
        else:
            with pytest.raises(UserError, match=reason):
                explain(**call, implementation="pallas_gpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(UserError, match="pallas_gpu: it needs an NVIDIA GPU"):
        explain(**call, implementation="pallas_gpu")


def test_the_blockwise_path_lowers_for_tpus():
    call = cast(CASES["learned score and bias, padding"](), jnp.bfloat16)
    smooth = {name: call.pop(name) for name in ("q", "k", "v", "score", "bias")}

    def loss(smooth):
        return attend(**smooth, **call, implementation="blockwise")[0].astype(jnp.float32).sum()

    traced = jax.jit(jax.value_and_grad(loss, allow_int=True)).trace(smooth)
    assert "stablehlo.while" in traced.lower(lowering_platforms=("tpu",)).as_text()


def sizes_of(call):
    found = []

    def trace(call):
        _, parts = parts_of(group(**{**ABSENT, **call}, example=jnp.arange(BATCH), head=jnp.arange(HEADS)))
        found.append(sizes_for(parts))

    jax.eval_shape(trace, call)
    return found[0]


def test_blocks_are_as_small_as_few_tokens_and_large_scores_ask_for():
    whole, few = sizes_of(tokens()), sizes_of(tokens(queries=1))
    assert (few.forward.t, few.forward.s) == (16, whole.forward.s)
    assert sizes_of(tokens(keys=40)).queries.s == 64
    crowded = sizes_of(CASES["learned network score"]())  # three features of a pair, filled up to four
    assert crowded.queries.t * crowded.queries.s * 4 == whole.queries.t * whole.queries.s
