"""That types are checked at all while tests run, and shapes with them."""

import jax.numpy as jnp
import jaxtyping
import pytest

from jattn import core
from jattn.attention import SoftmaxAttention
from jattn.core import Window
from tests import typechecking


@typechecking.jaxtyped(typechecker=typechecking.checked)
def first_row(
    x: jaxtyping.Float[jaxtyping.Array, "T C"], y: jaxtyping.Float[jaxtyping.Array, " T"], to: int = 1
) -> jaxtyping.Float[jaxtyping.Array, " C"]:
    return x[0, :to] if to > 1 else x[0]


def test_the_packages_functions_are_checked():
    q, k, v = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 5, 4)), jnp.ones((1, 2, 5, 6))
    core.attend(q, k, v)
    with pytest.raises(TypeError, match=r"parameter v=(.|\n)* violates type hint .*'B K S E'.* has dtype int32"):
        core.attend(q, k, v.astype(jnp.int32))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Window("3", 0), "typechecking parameter 'left'"),
        (lambda: SoftmaxAttention(num_heads="3"), "typechecking parameter 'num_heads'"),
    ],
)
def test_the_packages_classes_are_checked(make, says):
    with pytest.raises(TypeError, match=says):
        make()


def test_a_letter_stands_for_one_size_in_a_call():
    first_row(jnp.ones((5, 3)), jnp.ones(5))
    first_row(jnp.ones((2, 7)), jnp.ones(2))
    with pytest.raises(TypeError, match=r"parameter y=.* violates type hint"):
        first_row(jnp.ones((5, 3)), jnp.ones(3))
    with pytest.raises(TypeError, match=r"return .* violates type hint"):
        first_row(jnp.ones((5, 3)), jnp.ones(5), to=2)


def test_checks_can_be_disabled(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    first_row(jnp.ones((5, 3)), jnp.ones(3))
