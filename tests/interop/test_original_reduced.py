"""The pay-better-attention repository's classes for sizes that no recorded case has, against their text in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.interop.original import dump, load, original

B = 2


def softmax(x, axis):
    shares = np.exp(x - x.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def shapes(settings, prefix=""):
    """Released names and shapes; a shared W_a under the first of its names."""
    d_model, d_k, d_v, layer_type = (settings[name] for name in ("d_model", "d_k", "d_v", "layer_type"))
    found = {}

    def linear(name, inputs, outputs):
        found.update({f"{prefix}{name}.weight": (outputs, inputs), f"{prefix}{name}.bias": (outputs,)})

    for h in range(settings["n_heads"]):
        layer = f"layers.Attention_Layer {h}."
        linear(f"{layer}W_q", d_model, d_k)
        if layer_type not in ("Efficient", "Super"):
            linear(f"{layer}W_k", d_model, d_k)
        if layer_type == "SDPA":
            linear(f"{layer}W_v", d_model, d_v)
        if layer_type == "Super" and (h == 0 or settings["variant"] == "indiv"):
            linear(f"{layer}W_a", settings["max_len"], settings["max_len"])
    linear("W_o", settings["n_heads"] * d_v, d_model)
    return found


def random_params(named):
    rng = np.random.default_rng(0)
    return {name: 0.5 * rng.standard_normal(shape) for name, shape in named.items()}


def multihead(settings, params, inp_q, inp_k, inp_v, prefix=""):
    """`MultiHeadAttention.forward`, head by head (SPEC of the recorded cases, section 3)."""

    def linear(name, x):
        return x @ params[f"{prefix}{name}.weight"].T + params[f"{prefix}{name}.bias"]

    d_k, layer_type, heads = settings["d_k"], settings["layer_type"], []
    for h in range(settings["n_heads"]):
        layer, slice_of_keys = f"layers.Attention_Layer {h}.", slice(h * d_k, (h + 1) * d_k)
        q, sliced = linear(f"{layer}W_q", inp_q), layer_type in ("Efficient", "Super")
        k = inp_k[..., slice_of_keys] if sliced else linear(f"{layer}W_k", inp_k)
        if layer_type == "SDPA":
            v = linear(f"{layer}W_v", inp_v)
        elif layer_type == "Optimised":
            v = inp_v[..., h * settings["d_v"] : (h + 1) * settings["d_v"]]
        else:
            v = inp_v[..., slice_of_keys]
        if layer_type == "Super":
            name = f"layers.Attention_Layer {0 if settings['variant'] == 'shared' else h}.W_a"
            v = linear(name, v.swapaxes(1, 2)).swapaxes(1, 2)
        heads.append(softmax(q @ k.swapaxes(1, 2) / np.sqrt(d_k), settings["softmax_dim"]) @ v)
    return linear("W_o", np.concatenate(heads, 2))


ATTENTION = {"cls": "MultiHeadAttention", "variant": "indiv", "softmax_dim": 1, "max_len": 11}
SIZES = {"n_heads": 3, "d_model": 21, "d_k": 7, "d_v": 7}
CASES = {
    "SDPA of other sizes": {"layer_type": "SDPA", "n_heads": 2, "d_k": 5, "d_v": 3},
    "Optimised, fewer features than there are": {"layer_type": "Optimised", "d_k": 4, "d_v": 6},
    "Efficient, fewer features than there are": {"layer_type": "Efficient", "d_k": 5, "d_v": 5},
    "Efficient": {"layer_type": "Efficient", "softmax_dim": 2},
    "Super": {"layer_type": "Super", "n_heads": 7, "d_k": 3, "d_v": 3},
    "Super, shared": {"layer_type": "Super", "variant": "shared", "softmax_dim": 2},
}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_attention_of_any_sizes(case, apart):
    settings = ATTENTION | SIZES | CASES[case]
    params = random_params(shapes(settings))
    rng = np.random.default_rng(1)
    lengths = {"inp_q": 5, "inp_k": 11, "inp_v": 11} if apart else {"x": 11}
    inputs = {name: rng.standard_normal((B, length, settings["d_model"])) for name, length in lengths.items()}
    three = list(inputs.values()) if apart else [inputs["x"]] * 3
    module, variables = load("pay_better_attention", settings, as_float32(params))
    known = original("pay_better_attention", settings)
    found = jax.jit(lambda inputs: known.call(module, variables, inputs))(as_float32(inputs))
    np.testing.assert_allclose(found, multihead(settings, params, *three), atol=2e-5, rtol=1e-4)
    back = dump("pay_better_attention", settings, variables, shapes(settings))
    assert back.keys() == params.keys()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float32(b)), back, params)


def as_float32(arrays):
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def test_a_shared_matrix_is_found_under_any_of_its_names():
    settings = ATTENTION | SIZES | CASES["Super, shared"]
    params = as_float32(random_params(shapes(settings)))
    _, expected = load("pay_better_attention", settings, params)
    renamed = {
        name.removeprefix("layers.Attention_Layer 0.") if "W_a" in name else name: x for name, x in params.items()
    }
    all_names = params | {name: x for name, x in renamed.items() if "W_a" in name}
    for given in (renamed, all_names):
        _, found = load("pay_better_attention", settings, given)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


MODEL = {"cls": "Transformer", "vocab_size": 17, "d_model": 15, "d_lin": 13, "n_layers": 2, "max_len": 11}


def layer_norm(x, params, name):
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normed * params[f"{name}.weight"] + params[f"{name}.bias"]


def classifier(settings, params, tokens):
    """`Transformer.forward`."""

    def linear(name, x):
        return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    x = params["encoder.embedding.token_emb.weight"][tokens] + params["encoder.embedding.pos_emb.weight"]
    for i in range(settings["n_layers"]):
        layer = f"encoder.encoder_layers.Encoder_Layer{i}."
        z = layer_norm(x + multihead(settings, params, x, x, x, f"{layer}multi."), params, f"{layer}norm_multi")
        x = layer_norm(z + linear(f"{layer}ff.2", np.maximum(linear(f"{layer}ff.0", z), 0)), params, f"{layer}norm_ff")
    return linear("dense2", np.maximum(linear("dense1", x.mean(1)), 0))


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"layer_type": "Super", "shared_W_a": True, "softmax_dim": 1, "n_heads": 5}, 11),
        ({"layer_type": "SDPA", "shared_W_a": True, "softmax_dim": 1, "n_heads": 4}, 1),  # 4 does not divide 15
    ],
)
def test_the_classifier_reads_padding_and_repeats_a_single_token(options, length):
    settings = MODEL | options
    size = MODEL["d_model"] // options["n_heads"]
    of_attention = {**settings, "d_k": size, "d_v": size, "variant": "shared"}
    named = {
        "encoder.embedding.token_emb.weight": (17, 15),
        "encoder.embedding.pos_emb.weight": (11, 15),
        **{f"dense1.{kind}": shape for kind, shape in (("weight", (6, 15)), ("bias", (6,)))},
        **{f"dense2.{kind}": shape for kind, shape in (("weight", (1, 6)), ("bias", (1,)))},
    }
    for i in range(2):
        layer = f"encoder.encoder_layers.Encoder_Layer{i}."
        named |= shapes(of_attention, f"{layer}multi.")
        for name, (outputs, inputs) in (("ff.0", (13, 15)), ("ff.2", (15, 13))):
            named |= {f"{layer}{name}.weight": (outputs, inputs), f"{layer}{name}.bias": (outputs,)}
        named |= {f"{layer}{norm}.{kind}": (15,) for norm in ("norm_multi", "norm_ff") for kind in ("weight", "bias")}
    params = random_params(named)
    tokens = np.random.default_rng(2).integers(0, 3, (B, length))  # 0, padding elsewhere, among them
    assert (tokens == 0).any()
    module, variables = load("pay_better_attention_transformer", settings, as_float32(params))
    known = original("pay_better_attention_transformer", settings)
    found = jax.jit(lambda tokens: known.call(module, variables, {"x": tokens}))(jnp.asarray(tokens))
    expected = classifier(of_attention, params, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    back = dump("pay_better_attention_transformer", settings, variables, named)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float32(b)), back, params)


def test_a_missing_parameter_is_named():
    settings = ATTENTION | SIZES | CASES["Efficient"]
    params = as_float32(random_params(shapes(settings)))
    del params["layers.Attention_Layer 1.W_q.weight"]
    with pytest.raises(UserError, match=r"MultiHeadAttention needs 'layers.Attention_Layer 1.W_q.weight'"):
        load("pay_better_attention", settings, params)
