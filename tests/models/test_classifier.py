import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.models import TextClassifier, classifier
from jattn.models.classifier import ClassifierHead
from tests import calls

TEXTS = np.int32([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [0, 0, 0, 0, 0]])
SIZES = {
    "vocab_size": 11,
    "num_outputs": 3,
    "width": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 12,
    "implementation": "dense",
}


def made(**options):
    model = TextClassifier(**(SIZES | {"max_length": 13} | options))
    return model, calls.random_variables(model, TEXTS, spread=0.4)["params"]


def forward(model, params, tokens):
    return calls.apply(model, {"params": params}, tokens)


def with_embedding(params, token, change):
    """The parameters, but for the embedding of a token."""
    table = np.array(params["token_embedding"]["embedding"])
    table[token] = change(table[token])
    return params | {"token_embedding": {"embedding": table}}


def test_the_mean_is_over_valid_tokens_in_float32():
    x, mask = np.random.default_rng(1).standard_normal((3, 5, 2), np.float32), TEXTS != 0
    pool = jax.jit(classifier.pool, static_argnums=2)
    expected = np.stack([np.mean(x[0], axis=0), np.mean(x[1, :3], axis=0), np.zeros(2)])
    np.testing.assert_allclose(pool(x, mask, "mean"), expected, atol=1e-6)
    np.testing.assert_allclose(pool(x, None, "mean"), np.mean(x, axis=1), atol=1e-6)
    np.testing.assert_array_equal(pool(x, mask, "class_token"), x[:, 0])
    # 300 ones in bfloat16 would add up to 256.
    assert float(pool(jnp.ones((1, 300, 1), jnp.bfloat16), None, "mean")[0, 0]) == 1.0


def test_the_head_drops_what_each_of_its_layers_reads():
    """Of ones, pooled features become 0 or 4, so that a hidden one is 4 times how many of them stay, then 0 or that."""
    x, features = np.ones((400, 3, 2), np.float32), 5
    p = {"hidden": {"kernel": np.ones((2, features)), "bias": np.zeros(features)}}
    p["output"] = {"kernel": np.eye(features), "bias": np.zeros(features)}
    head = ClassifierHead(features, hidden_dim=features, dropout_rate=0.75)
    p = jax.tree.map(np.float32, p)
    y = calls.apply(head, {"params": p}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(y)) == {0, 16, 32}
    assert all(len(set(row[row != 0])) <= 1 for row in y)  # the pooled features of an example are dropped once
    assert any((row == 0).any() and (row != 0).any() for row in y)  # its hidden ones each by itself
    np.testing.assert_array_equal(calls.apply(head, {"params": p}, x), np.full((400, features), 2.0))


def test_the_head_has_one_relu_layer_where_asked():
    x, head = np.random.default_rng(1).standard_normal((2, 1, 3), np.float32), ClassifierHead(5, hidden_dim=7)
    p = jax.tree.map(np.asarray, calls.random_variables(head, x, spread=1, seed=2)["params"])
    hidden = np.maximum(x[:, 0] @ p["hidden"]["kernel"] + p["hidden"]["bias"][None], 0)
    expected = hidden @ p["output"]["kernel"] + p["output"]["bias"][None]
    np.testing.assert_allclose(calls.apply(head, {"params": p}, x), expected, rtol=1e-5, atol=1e-5)
    assert set(calls.shapes(ClassifierHead(5), x)["params"]) == {"output"}


# Of two layers, the second would show what the first let through.
@pytest.mark.parametrize(
    ("pooling", "positions", "depth"),
    [("mean", "learned", 2), ("mean", "rotary", 1), ("class_token", "learned", 1), ("class_token", "rotary", 2)],
)
def test_more_padding_changes_nothing(pooling, positions, depth):
    model, params = made(pooling=pooling, positions=positions, depth=depth)
    short = forward(model, params, TEXTS)
    long = forward(model, params, np.pad(TEXTS, ((0, 0), (0, 7))))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=1e-5)
    assert np.isfinite(short).all()
    assert np.abs(short[0] - short[1]).max() > 1e-2
    # What padding embeds to is of no consequence either.
    other = with_embedding(params, 0, lambda row: row + 100)
    np.testing.assert_allclose(forward(model, other, TEXTS)[:2], short[:2], rtol=1e-4, atol=1e-4)


def test_without_a_padding_token_every_token_is_attended_and_pooled():
    # As released with arXiv:2403.01643, whose texts are filled up with token 0.
    model, params = made(depth=2)
    ours = forward(model, params, TEXTS)
    released = forward(model.clone(padding_token=None), params, TEXTS)
    np.testing.assert_allclose(released[0], ours[0], rtol=1e-4, atol=1e-5)  # the only text without a 0
    assert np.abs(released - ours)[1:].min() > 1e-3
    longer = np.pad(TEXTS, ((0, 0), (0, 3)))
    assert np.abs(forward(model.clone(padding_token=None), params, longer) - released).min() > 1e-3
    # Another token can be the one that stands for nothing; 0 is then a token like any other.
    elsewhere = model.clone(padding_token=2)
    for token, changes in ((2, False), (0, True)):
        other = forward(elsewhere, with_embedding(params, token, lambda row: -9 * row), TEXTS)[1]
        assert np.allclose(other, forward(elsewhere, params, TEXTS)[1], atol=1e-3) != changes


def test_a_text_of_padding_alone_has_finite_logits_and_gradients():
    model, params = made()
    value, gradients = jax.jit(jax.value_and_grad(lambda p: model.apply({"params": p}, jnp.asarray(TEXTS[2:])).sum()))(
        params
    )
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    # Nothing was read: the logits are the output layer's bias.
    np.testing.assert_allclose(value, np.sum(params["head"]["output"]["bias"]), rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_every_token_is_read_in_both_directions(pooling):
    model, params = made(pooling=pooling)
    y = forward(model, params, TEXTS)
    for t in range(5):
        other = TEXTS.copy()
        other[0, t] = 7
        changed = forward(model, params, other)
        assert np.abs(changed - y)[0].max() > 1e-4
        np.testing.assert_array_equal(changed[1:], y[1:])


def test_the_class_token_takes_the_place_of_one_token():
    model, params = made(pooling="class_token", max_length=6)
    assert params["class_token"].shape == (8,)
    assert params["position_embedding"]["embedding"].shape == (6, 8)
    with pytest.raises(UserError, match="sequence of 6 tokens is longer than max_length 5"):
        jax.eval_shape(model.clone(max_length=5).init, jax.random.key(0), TEXTS)


def test_the_class_token_of_an_empty_text_attends_to_itself():
    model, params = made(pooling="class_token")
    gradient = jax.jit(jax.grad(lambda p: model.apply({"params": p}, jnp.asarray(TEXTS[2:])).sum()))(params)
    assert np.abs(gradient["block_0"]["attention"]["value"]["kernel"]).max() > 1e-3


def test_bfloat16_gives_float32_logits():
    model, params = made(dtype="bfloat16", head_hidden_dim=5)
    y = forward(model, params, TEXTS)
    assert (y.shape, y.dtype) == ((3, 3), jnp.float32)
    exact = forward(model.clone(dtype="float32"), params, TEXTS)
    assert np.abs(y - exact).max() / np.abs(exact).max() < 5e-2


def test_an_unknown_pooling_names_the_nearest():
    with pytest.raises(UserError, match="unknown pooling 'classtoken': did you mean 'class_token'"):
        TextClassifier(**SIZES, pooling="classtoken")
