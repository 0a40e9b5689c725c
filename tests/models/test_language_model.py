import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.attention.mechanism import mechanism
from jattn.errors import UserError
from jattn.models import LanguageModel
from jattn.models.positions import POSITIONS
from tests import calls

TOKENS = np.int32([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 0, 7]])
SIZES = {"vocab_size": 11, "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 12, "implementation": "dense"}


def made(**options):
    """A model and parameters that are random in every leaf."""
    model = LanguageModel(**(SIZES | options))
    return model, calls.random_variables(model, TOKENS, spread=0.4)["params"]


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens)


def logits(model, params, tokens=TOKENS):
    return np.asarray(forward(model, params, tokens))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_it_works_from_a_few_sizes_alone():
    model = LanguageModel(vocab_size=17, width=8, depth=1, num_heads=2)
    y = forward(model, calls.random_variables(model, TOKENS)["params"], TOKENS)
    assert (y.shape, y.dtype) == ((2, 7, 17), jnp.float32)
    assert hash(model) == hash(dataclasses.replace(model))


def test_without_causality_a_logit_depends_on_later_tokens():
    model, params = made(causal=False)
    other = TOKENS.copy()
    other[0, 6] = 8
    changed = (logits(model, params) != logits(model, params, other)).any(-1)
    np.testing.assert_array_equal(changed, [[True] * 7, [False] * 7])


def test_embeddings_have_a_dropout_rate_of_their_own():
    """Where blocks add nothing, what training changes is what is dropped of the embeddings."""
    rngs = {"dropout": jax.random.key(0)}
    for rate, own in ((0.5, 0.0), (0.0, 0.5)):
        model, params = made(dropout_rate=rate, embedding_dropout_rate=own)
        params["block_0"] = jax.tree.map(np.zeros_like, params["block_0"])
        trained = calls.apply(model, {"params": params}, TOKENS, deterministic=False, rngs=rngs)
        evaluated = logits(LanguageModel(**SIZES), params)
        assert np.allclose(trained, evaluated, atol=1e-5) == (own == 0)


def test_norms_without_bias_are_norms_whose_bias_is_zero():
    model, params = made(norm_bias=False)
    norms = [
        params["norm_output"],
        *(params["block_0"][f"norm_{of}"] for of in ("attention", "mlp")),
    ]
    assert all(set(norm) == {"scale"} for norm in norms)
    without = logits(model, params)
    for norm in norms:
        norm["bias"] = np.zeros(8, np.float32)
    np.testing.assert_array_equal(without, logits(dataclasses.replace(model, norm_bias=True), params))


@pytest.mark.parametrize(("positions", "depth"), [("learned_every_layer", 2), ("rotary", 1)])
def test_no_logit_depends_on_a_later_token(positions, depth):
    """By gradient with respect to one-hot tokens, through the whole model."""
    model, params = made(positions=positions, depth=depth)
    table = params["token_embedding"]["embedding"]

    def outputs(rows):
        # Token t reads row t of a table of its own, so that the table's gradient is that of the tokens.
        p = params | {"token_embedding": {"embedding": jnp.pad(rows, ((0, 11 - 7), (0, 0)))}}
        return model.apply({"params": p}, jnp.arange(7)[None])[0].sum(-1)

    jacobian = np.abs(jax.jit(jax.jacrev(outputs))(np.asarray(table)[TOKENS[0]])).sum(-1)
    assert (jacobian[np.triu_indices(7, 1)] == 0).all()
    assert (jacobian[np.tril_indices(7)] > 0).all()


def test_tied_output_weights_are_the_embedding_table():
    model, params = made(tie_embeddings=True)
    assert "output" not in params
    untied, _ = made()
    table = np.asarray(params["token_embedding"]["embedding"])
    same = params | {"output": {"kernel": table.T, "bias": np.zeros(11, np.float32)}}
    np.testing.assert_allclose(logits(model, params), logits(untied, same), rtol=1e-5, atol=1e-5)
    # A row that no input uses is still trained: as output weights.
    gradient = jax.jit(jax.grad(lambda p: forward(model, p, TOKENS).sum()))(params)["token_embedding"]["embedding"]
    assert np.abs(gradient)[10].max() > 0


def without_blocks(params):
    """Blocks that add nothing, so that the final norm sees the embeddings alone."""
    zeros = {name: jax.tree.map(np.zeros_like, p) for name, p in params.items() if name.startswith("block_")}
    return params | zeros


@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_added_to_the_scaled_embeddings(positions):
    depth = 2 if positions == "learned_every_layer" else 1
    model, params = made(positions=positions, depth=depth, embedding_scale=3.0, final_norm=False, tie_embeddings=True)
    params = without_blocks(params)
    table = np.asarray(params["token_embedding"]["embedding"])
    t, c = np.arange(7)[:, None], np.arange(8)[None]
    even = c - c % 2
    added = {
        "none": lambda: np.zeros((7, 8)),
        "rotary": lambda: np.zeros((7, 8)),
        "learned": lambda: np.asarray(params["position_embedding"]["embedding"]),
        "learned_every_layer": lambda: sum(
            np.asarray(params[name]["embedding"]) for name in ("position_embedding", "position_embedding_1")
        ),
        "sinusoidal": lambda: np.where(c % 2, np.cos(t * 1e4 ** (-even / 8)), np.sin(t * 1e4 ** (-even / 8))),
        "sinusoidal_neural": lambda: np.where(
            c % 2, np.cos(t * 1e4 ** (-(2 * even + 1) / 8)), np.sin(t * 1e4 ** (-2 * even / 8))
        ),
    }[positions]()
    x = 3 * table[np.asarray(TOKENS)] + added[None]
    np.testing.assert_allclose(logits(model, params), x @ table.T, rtol=1e-4, atol=1e-4)


def test_embeddings_are_normed_before_they_are_scaled():
    options = {"final_norm": False, "tie_embeddings": True, "positions": "none", "norm_epsilon": 1e-3}
    model, params = made(embedding_norm=True, embedding_scale=3.0, **options)
    params = without_blocks(params)
    table = np.asarray(params["token_embedding"]["embedding"])
    x = table[np.asarray(TOKENS)]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    norm = {name: np.asarray(p)[None, None] for name, p in params["norm_embedding"].items()}
    x = 3 * (x * norm["scale"] + norm["bias"])
    np.testing.assert_allclose(logits(model, params), x @ table.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("norm_position", "final_norm", "present"),
    [("pre", None, True), ("post", None, False), ("pre", False, False), ("post", True, True)],
)
def test_the_final_norm_belongs_to_pre_norm_unless_said(norm_position, final_norm, present):
    _, params = made(norm_position=norm_position, final_norm=final_norm)
    assert ("norm_output" in params) is present


@pytest.mark.parametrize(("positions", "depth"), [("learned_every_layer", 2), ("sinusoidal_neural", 1), ("rotary", 1)])
def test_decoding_token_by_token_equals_the_full_pass(positions, depth):
    model, params = made(positions=positions, depth=depth, max_length=7)
    decoder, cache = model.clone(decode=True), calls.empty_cache(model, TOKENS)

    @jax.jit
    def step(cache, tokens):
        y, updated = decoder.apply({"params": params, "cache": cache}, tokens, mutable=["cache"])
        return updated["cache"], y

    # A prompt of two tokens, then one by one.
    parts = []
    for tokens in (TOKENS[:, :2], *(TOKENS[:, t : t + 1] for t in range(2, 7))):
        cache, y = step(cache, tokens)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), logits(model, params), rtol=2e-4, atol=2e-4)
    # An eighth token has no place: NaN, never a wrong number.
    assert np.isnan(step(cache, TOKENS[:, :1])[1]).all()


def test_a_context_longer_than_max_length_is_refused():
    for positions in ("learned", "sinusoidal", "none"):
        model = LanguageModel(**SIZES, max_length=6, positions=positions)
        with pytest.raises(UserError, match="sequence of 7 tokens is longer than max_length 6"):
            jax.eval_shape(model.init, jax.random.key(0), TOKENS)


def test_bfloat16_computes_near_float32_with_float32_parameters_and_logits():
    model, params = made(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    exact = logits(model.clone(dtype="float32"), params)
    y = logits(model, params)
    assert y.dtype == np.float32
    error = np.abs(y - exact).max() / np.abs(exact).max()
    assert 1e-6 < error < 5e-2


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_are_as_many_as_the_formula_says(use_bias):
    _, params = made(positions="learned_every_layer", depth=2, max_length=7, use_bias=use_bias)
    V, C, F, L, T, b = 11, 8, 12, 2, 7, int(use_bias)
    layer = 4 * (C * C + b * C) + 2 * C * F + b * (F + C) + 2 * 2 * C
    assert size(params) == V * C + L * T * C + L * layer + 2 * C + V * C + b * V


def test_layers_may_differ():
    layers = (mechanism("softmax", {"num_key_heads": 1}), mechanism("softmax", {"head_dim": 3, "qk_norm": True}))
    model, params = made(attention=layers, depth=2)
    assert params["block_0"]["attention"]["key"]["kernel"].shape == (8, 1, 4)
    assert params["block_1"]["attention"]["key"]["kernel"].shape == (8, 2, 3)
    assert "query_norm" in params["block_1"]["attention"]
    assert np.isfinite(logits(model, params)).all()


def test_rotary_positions_are_the_mechanisms_option_and_a_layer_may_refuse():
    layers = (mechanism("softmax", {}), mechanism("softmax", {"rotary": False}))
    model, params = made(positions="rotary", attention=layers, depth=2)
    explicit = tuple(mechanism("softmax", {"rotary": rotary}) for rotary in (True, False))
    none = model.clone(positions="none", attention=explicit)
    np.testing.assert_array_equal(logits(model, params), logits(none, params))
    assert np.abs(logits(model, params) - logits(none.clone(attention=layers[1]), params)).max() > 1e-3


def test_a_mechanism_that_lacks_rotary_positions_is_not_asked_for_them():
    model, params = made(positions="rotary", attention=(mechanism("softmax", {}), mechanism("conv1d", {})), depth=2)
    assert [layer.module(num_heads=2).rotary for layer in model.mechanisms()] == [True, False]
    assert np.isfinite(logits(model, params)).all()


@pytest.mark.parametrize(
    ("remat", "decode", "expected"), [("none", False, 0), ("attention", False, 2), ("block", True, 0)]
)
def test_every_block_is_rematerialized_except_when_decoding(remat, decode, expected):
    model = LanguageModel(**(SIZES | {"depth": 2}), remat=remat, decode=decode)
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    program = jax.make_jaxpr(functools.partial(model.apply, mutable=["cache"]))(variables, TOKENS)
    assert sum(equation.primitive.name in ("remat2", "checkpoint") for equation in program.eqns) == expected


def test_initial_logits_are_small_and_gradients_reach_every_leaf():
    model = LanguageModel(**(SIZES | {"width": 16}))
    params = calls.init(model, TOKENS)["params"]
    assert params["token_embedding"]["embedding"].std() == pytest.approx(16**-0.5, rel=0.2)

    def loss(p):
        y = forward(model, p, TOKENS)
        return -jnp.take_along_axis(jax.nn.log_softmax(y), TOKENS[:, :, None], -1).mean(), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert np.abs(y).max() < 0.5
    gradients = jax.tree.leaves_with_path(gradients)
    names = [jax.tree_util.keystr(path) for path, leaf in gradients if not np.abs(leaf).max() > 0]
    # Adding one vector to all keys changes no softmax: their bias has no gradient.
    assert all("'key'" in name and "'bias'" in name for name in names), names
