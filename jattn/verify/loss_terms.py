"""Recorded loss terms that a released class returns beside its output, and their gradients."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jattn.interop.original import load, original
from jattn.interop.original.adaptive_span import regularizer
from jattn.types import Array
from jattn.verify.case import Recorded
from jattn.verify.check import OUTPUT_RTOL, QUICK, Result, deviation, worst


def check(recorded: Recorded) -> Iterator[Result]:
    """The loss term of a recorded call, where there is one.

    Terms are as small as their factor, 4e-6 by default: limits are relative, those of gradients to the largest.
    """
    if "reg" not in recorded.arrays:
        return
    try:
        value, gradients = _computed(recorded)
    except Exception as error:  # whatever prevents it, a case that cannot be computed has failed
        yield Result(recorded.name, "loss term", problem=f"{type(error).__name__}: {error}")
        return
    expected = recorded.group("grad_reg")
    largest = float(max(np.max(np.abs(gradient), initial=0.0) for gradient in expected.values()))
    yield Result(
        recorded.name,
        "loss term",
        worst({"reg": deviation(value, recorded.arrays["reg"], 0.0, OUTPUT_RTOL)}),
        worst({name: deviation(gradients[name], expected[name], OUTPUT_RTOL * largest, 0.0) for name in expected}),
    )


def _computed(recorded: Recorded) -> tuple[Array, dict[str, Array]]:
    settings = recorded.settings
    params, inputs = (jax.tree.map(jnp.asarray, recorded.group(group)) for group in ("param", "in"))
    module, _ = load(recorded.mechanism, settings, params)
    known = original(recorded.mechanism, settings)

    def term(params: dict[str, Array]) -> Array:
        return regularizer(module, {"params": known.params(settings, params)}, inputs)

    return jax.jit(jax.value_and_grad(term), compiler_options=QUICK)(params)
