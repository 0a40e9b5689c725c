"""One recorded case against jattn: outputs and gradients, through every implementation that serves."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn import core
from jattn.errors import UserError
from jattn.interop.original import load, original
from jattn.training.losses import cross_entropy
from jattn.types import Array, PyTree
from jattn.verify.case import Recorded

OUTPUT_ATOL, OUTPUT_RTOL = 2e-5, 1e-4
GRADIENT_ATOL, GRADIENT_NOISES = 1e-4, 20
"""Limit of gradients: the larger of an absolute one and so many times the released code's own rounding noise."""

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Options of the compiler: cases are small, and nearly all of their time is compilation."""

LOSSES: dict[str, Callable[[Array, Mapping[str, Array]], Array]] = {
    "AutoRegressiveWrapper(SimpleTransformer)": lambda logits, inputs: (
        cross_entropy(logits, inputs["x"][:, 1:]).mean().reshape(1)
    ),
}
"""Classes whose output is a loss of what their module gives for these inputs, as the one entry of an array."""


@dataclasses.dataclass(frozen=True)
class Error:
    """The largest deviation of one kind, where it is, and how much is allowed there."""

    value: float
    limit: float
    where: str

    @property
    def holds(self) -> bool:
        """Whether it stays within its limit; NaN does not."""
        return self.value <= self.limit


@dataclasses.dataclass(frozen=True)
class Result:
    """How one case went through one implementation.

    problem: why it could not be computed, or None.
    """

    case: str
    implementation: str
    output: Error | None = None
    gradient: Error | None = None
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the case was computed and is right."""
        return self.problem is None and all(error is None or error.holds for error in (self.output, self.gradient))


def check_call(recorded: Recorded, by_name: bool) -> Iterator[Result]:
    """The results of a case by default, and with `by_name` by each implementation of attention that can compute it."""
    try:
        module, _ = load(recorded.mechanism, recorded.settings, recorded.group("param"))
    except Exception as error:  # whatever prevents it, a case that cannot be built has failed
        yield Result(recorded.name, "none", problem=f"could not be built: {type(error).__name__}: {error}")
        return
    chosen = module.clone(implementation=None) if hasattr(module, "implementation") else module
    with core.implementations_taken() as taken:
        by_default = _through(recorded, chosen, "default")
    yield by_default
    if not by_name or not hasattr(module, "implementation"):
        return
    for name in core.native_implementations():
        if set(taken) == {name}:  # named, it would be the same program
            yield dataclasses.replace(by_default, implementation=name)
            continue
        try:
            yield _through(recorded, module.clone(implementation=name), name)
        except UserError:  # it says why it cannot serve
            continue


def _through(recorded: Recorded, module: Any, implementation: str) -> Result:
    try:
        with jax.default_matmul_precision("float32"):
            found, gradients = _computed(recorded, module)
    except Exception as error:
        if implementation != "default" and isinstance(error, UserError):
            raise
        return Result(recorded.name, implementation, problem=f"{type(error).__name__}: {error}")
    limit = max(GRADIENT_ATOL, GRADIENT_NOISES * recorded.noise)
    return Result(
        recorded.name,
        implementation,
        worst({name: deviation(found[name], recorded.arrays[name], OUTPUT_ATOL, OUTPUT_RTOL) for name in found}),
        worst({name: deviation(gradients[name], value, limit, 0.0) for name, value in recorded.group("grad").items()}),
    )


def _computed(recorded: Recorded, module: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """The output, and gradients of <cotangent, output> with respect to released parameters and inputs."""
    known = original(recorded.mechanism, recorded.settings)
    loss = LOSSES.get(recorded.settings["cls"], lambda output, inputs: output)
    inputs, params = jax.device_put((recorded.group("in"), recorded.group("param")))
    smooth = {name: value for name, value in inputs.items() if jnp.issubdtype(value.dtype, jnp.inexact)}

    def output(params: PyTree, smooth: PyTree) -> Array:
        variables = {"params": known.params(recorded.settings, params)}
        return loss(known.call(module, variables, inputs | smooth), inputs)

    def computed(params: PyTree, smooth: PyTree, cotangent: Array) -> tuple[Array, PyTree]:
        found, pull = jax.vjp(output, params, smooth)
        return found, pull(cotangent.astype(found.dtype))

    run = jax.jit(computed, compiler_options=QUICK)
    found, (of_params, of_inputs) = run(params, smooth, recorded.arrays["cotangent"])
    return {"out": found}, of_params | of_inputs


def deviation(found: Array, expected: np.ndarray, atol: float, rtol: float) -> tuple[float, float]:
    """The error that uses up most of its limit, and that limit; a wrong shape is an infinite error."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return np.inf, atol
    if not found.size:
        return 0.0, atol
    errors, limits = np.abs(found - expected), atol + rtol * np.abs(expected)
    worst = np.unravel_index(np.argmax(np.nan_to_num(errors / limits, nan=np.inf)), errors.shape)
    return float(errors[worst]), float(limits[worst])


def worst(deviations: dict[str, tuple[float, float]]) -> Error:
    """Of several arrays, the error that uses up most of its limit."""
    name = max(deviations, key=lambda name: np.nan_to_num(deviations[name][0] / deviations[name][1], nan=np.inf))
    return Error(*deviations[name], name)
