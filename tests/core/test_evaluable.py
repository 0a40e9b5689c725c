"""What of a traced function is known before it is evaluated on arrays that are filled up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.core.evaluable import crowding, objection


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a: jnp.sort(a, 1), "uses sort"),
        (lambda a: a[:, :3], "uses slice"),
        (lambda a: jnp.concatenate([a, a]), "uses concatenate"),
        (lambda a: jnp.take(a, jnp.arange(3), axis=0), "uses gather"),
        (lambda a: jnp.take(a * 2, jnp.arange(3), axis=1, mode="clip"), "uses gather"),
        (lambda a: a + jnp.take(a, jnp.arange(7), axis=1, mode="clip"), "uses gather"),
        (lambda a: a + np.ones((16, 7), np.float32), "holds an array"),
        (lambda a: jax.nn.relu(a + np.ones((16, 7), np.float32)), "holds an array"),
        (lambda a: a.reshape(7, 16), "reshapes"),
        (lambda a: jax.lax.fori_loop(0, 3, lambda i, a: a * 2, a), "uses scan"),
    ],
)
def test_what_cannot_be_evaluated_is_found_beforehand(function, reason):
    assert reason in objection(jax.make_jaxpr(function)(jnp.zeros((16, 7))))


def test_long_axes_are_refused_unless_looked_up():
    assert "not 257" in objection(jax.make_jaxpr(lambda a: a.sum())(jnp.zeros((16, 257))))
    assert objection(jax.make_jaxpr(lambda a: a.sum())(jnp.zeros((16, 256)))) is None
    looked_up = jax.make_jaxpr(lambda a, index: jnp.take(a, index, axis=1, mode="clip"))
    assert objection(looked_up(jnp.zeros((16, 257)), jnp.zeros(8, jnp.int32))) is None


def test_crowding_counts_what_three_axes_hold():
    a, b = jnp.zeros((16, 7)), jnp.zeros((32, 7))
    assert crowding(jax.make_jaxpr(lambda a, b: (a[:, None] * b[None]).sum(-1))(a, b), 16 * 32) == 8
    assert crowding(jax.make_jaxpr(lambda a, b: a @ b.T)(a, b), 16 * 32) == 1
