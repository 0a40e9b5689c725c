import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.errors import UserError
from jattn.models import VisionTransformer
from tests import calls

SIZES = {
    "num_outputs": 3,
    "patch_size": 2,
    "width": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 12,
    "implementation": "dense",
}
PICTURES = np.random.default_rng(9).normal(size=(2, 4, 6, 1)).astype(np.float32)


def made(**options):
    model = VisionTransformer(**(SIZES | options))
    return model, calls.random_variables(model, PICTURES, spread=0.4)["params"]


def forward(model, params, pictures):
    return calls.apply(model, {"params": params}, pictures)


def swapped(pictures):
    """The same patches in another order."""
    return np.concatenate([pictures[:, 2:], pictures[:, :2]], axis=1)


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_without_positions_the_order_of_patches_does_not_matter(pooling):
    model, params = made(pooling=pooling, positions="none")
    y = forward(model, params, PICTURES)
    assert (y.shape, y.dtype) == ((2, 3), jnp.float32)
    np.testing.assert_allclose(forward(model, params, swapped(PICTURES)), y, rtol=1e-4, atol=1e-5)
    with_positions, params = made(pooling=pooling)
    y = forward(with_positions, params, PICTURES)
    assert np.abs(forward(with_positions, params, swapped(PICTURES)) - y).max() > 1e-3


def without_blocks(params):
    zeros = {name: jax.tree.map(np.zeros_like, p) for name, p in params.items() if name.startswith("block_")}
    return params | zeros


def test_the_class_token_stands_at_position_zero():
    model, params = made(pooling="class_token", final_norm=False, embedding_scale=3.0)
    params = jax.device_get(without_blocks(params))
    row = 3 * params["class_token"] + params["position_embedding"]["embedding"][0]
    head = params["head"]["output"]
    expected = row @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(forward(model, params, PICTURES), np.stack([expected] * 2), rtol=1e-4, atol=1e-5)


def test_the_class_token_begins_as_asked():
    for deviation in (0.0, 2.5):
        model = VisionTransformer(**(SIZES | {"width": 128, "pooling": "class_token", "class_token_std": deviation}))
        token = jax.jit(lambda x, model=model: model.init(jax.random.key(0), x)["params"]["class_token"].unbox())
        assert abs(np.std(token(PICTURES)) - deviation) < 0.4 * deviation + 1e-9
    with pytest.raises(UserError, match=r"class_token_std=0.5 does nothing with pooling='mean'"):
        VisionTransformer(**(SIZES | {"class_token_std": 0.5}))
    with pytest.raises(UserError, match="class_token_std is -1: it must be at least 0"):
        VisionTransformer(**(SIZES | {"pooling": "class_token", "class_token_std": -1}))


def test_patches_stand_after_the_class_token():
    model, params = made(final_norm=False)
    params = jax.device_get(without_blocks(params))
    kernel = params["patch_embedding"]["projection"]["kernel"].reshape(4, 8)
    patches = PICTURES.reshape(2, 2, 2, 3, 2, 1).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 4)
    x = patches @ kernel + (params["patch_embedding"]["projection"]["bias"])[None, None]
    x = (x + params["position_embedding"]["embedding"][None]).mean(1)
    head = params["head"]["output"]
    expected = x @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(forward(model, params, PICTURES), expected, rtol=1e-4, atol=1e-5)
    _, with_token = made(pooling="class_token")
    assert with_token["position_embedding"]["embedding"].shape == (7, 8)


def test_parameters_are_as_many_as_the_formula_says():
    _, params = made(pooling="class_token", head_hidden_dim=5, depth=2)
    C, F, L, T, N = 8, 12, 2, 7, 3
    layer = 4 * (C * C + C) + 2 * C * F + F + C + 2 * 2 * C
    expected = (2 * 2 * 1 * C + C) + C + T * C + L * layer + 2 * C + (5 * C + 5) + (5 * N + N)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_larger_pictures_than_at_init_are_refused():
    model, params = made()
    with pytest.raises(UserError, match="sequence of 9 tokens is longer than max_length 6"):
        jax.eval_shape(model.apply, {"params": params}, jnp.ones((1, 6, 6, 1)))
