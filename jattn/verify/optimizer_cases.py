"""Recorded runs of the attention-informed optimizer, and the energies of recorded calls of natural attention.

A run is some steps on a block with the loss mean((block(x_t) - y_t)^2). Recorded are the loss, the energy, the factor,
the raw gradients and the parameters of each step. What runs here is the trainer's own chain, built from options.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jattn import core
from jattn.config import OptimConfig
from jattn.errors import UserError
from jattn.interop.original import dump, load
from jattn.interop.original.natural import with_arguments
from jattn.optim import attention_informed
from jattn.optim.build import Optimizer, build
from jattn.types import Array
from jattn.verify.case import Recorded
from jattn.verify.check import GRADIENT_ATOL, OUTPUT_ATOL, OUTPUT_RTOL, QUICK, Result, deviation, worst

OPTIMIZER = "natural_attention_optimizer"
"""The mechanism of recorded runs."""

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "energy_scale": 0.1}
"""Of the released optimizer."""

WITHOUT_GRADIENT = "attn.k_proj.bias"
"""The softmax stays the same when a query's scores are shifted: what a small epsilon normalises here is rounding."""


def optimizer(settings: dict[str, Any]) -> Optimizer:
    """The trainer's optimizer that computes what `AttentionInformedOptimizer` computes."""
    options = DEFAULTS | settings
    beta1, beta2 = options["betas"]
    config = OptimConfig(
        name="adamw",
        learning_rate=options["lr"],
        schedule="constant",
        beta1=beta1,
        beta2=beta2,
        epsilon=options["eps"],
        weight_decay=options["weight_decay"],
        decay_scope="all",
        attention_informed="gradient",
        energy_scale=options["energy_scale"],
    )
    return build(config, settings["steps"])


def check(recorded: Recorded, by_name: bool) -> Iterator[Result]:
    """The results of a recorded run by default, and with `by_name` by each implementation that can compute it."""
    by_default, taken = None, []
    for name in (None, *(core.native_implementations() if by_name else ())):
        if set(taken) == {name}:  # named, it would be the same program
            yield dataclasses.replace(by_default, implementation=name)
            continue
        try:
            with jax.default_matmul_precision("float32"), core.implementations_taken() as of_this:
                found = replay(recorded, name)
        except UserError as error:
            if name is None:
                yield Result(recorded.name, "none", problem=str(error))
                return
            continue  # it says why it cannot serve
        except Exception as error:  # whatever prevents it, a case that cannot be built has failed
            yield Result(recorded.name, name or "default", problem=f"{type(error).__name__}: {error}")
            continue
        raw, others = ([key for key in found if ("/grad_raw/" in key) is yes] for yes in (True, False))
        arrays = recorded.arrays
        result = Result(
            recorded.name,
            name or "default",
            worst({key: deviation(found[key], arrays[key], _atol(recorded, key), OUTPUT_RTOL) for key in others}),
            worst({key: deviation(found[key], arrays[key], GRADIENT_ATOL, 0.0) for key in raw}),
        )
        if name is None:
            by_default, taken = result, of_this
        yield result


def replay(recorded: Recorded, implementation: str | None = None) -> dict[str, Array]:
    """The arrays of a recorded run, computed anew, under their names in the file.

    Where epsilon is so small that Adam normalises rounding noise, the one parameter that this concerns
    (`WITHOUT_GRADIENT`) takes its recorded value after each step.
    """
    settings, inputs = recorded.settings, jax.tree.map(jnp.asarray, recorded.group("in"))
    module, variables = load(recorded.mechanism, settings, recorded.group("param"))
    module = module.clone(implementation=implementation)
    tx = optimizer(settings).tx
    shapes = {name: value.shape for name, value in recorded.group("param").items()}
    scale = attention_informed((DEFAULTS | settings)["energy_scale"])
    shared = {name: value for name, value in inputs.items() if name not in ("x", "y")}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params: Any, state: Any, x: Array, y: Array) -> tuple:
        def objective(params: Any) -> tuple[Array, Any]:
            out, sown = with_arguments(module, {"params": params}, shared | {"x": x}, mutable=["energies"])
            return jnp.mean(jnp.square(out - y)), sown["energies"]

        (loss, energies), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params, energies=energies, value=loss)
        (energy,) = jax.tree.leaves(energies)
        factor = scale.update({"of": jnp.ones(())}, optax.EmptyState(), energies=energies)[0]["of"]
        params = optax.apply_updates(params, updates)
        released = {
            kind: dump(recorded.mechanism, settings, {"params": tree}, shapes)
            for kind, tree in (("grad_raw", gradient), ("param", params))
        }
        return params, state, released, {"losses": loss, "energy": energy, "factor": factor}

    params = variables["params"]
    state, scalars, found = tx.init(params), [], {}
    for t in range(settings["steps"]):
        params, state, released, of_step = step(params, state, inputs["x"][t], inputs["y"][t])
        scalars.append(of_step)
        for kind, arrays in released.items():
            found |= {f"step{t + 1}/{kind}/{name}": value for name, value in arrays.items()}
        if _normalises_rounding(settings):
            # The energies of the next steps depend on it, though the loss does not.
            own = {WITHOUT_GRADIENT: jnp.asarray(recorded.arrays[f"step{t + 1}/param/{WITHOUT_GRADIENT}"])}
            _, variables = load(recorded.mechanism, settings, released["param"] | own)
            params = variables["params"]
    return found | {name: jnp.stack([of_step[name] for of_step in scalars]) for name in scalars[0]}


def check_energy(recorded: Recorded) -> Iterator[Result]:
    """The energy of a recorded call, and the factor that it gives, where they are recorded."""
    name, factor = "aux/energy_scalar_mean_abs", "aux/grad_factor_scale0.1"
    if name not in recorded.arrays:
        return
    try:
        module, variables = load(recorded.mechanism, recorded.settings, recorded.group("param"))
        with jax.default_matmul_precision("float32"):
            energy, scaled = _energy(module, variables, recorded.group("in"))
    except Exception as error:  # as for the call itself
        yield Result(recorded.name, "energy", problem=f"{type(error).__name__}: {error}")
        return
    found = {name: energy, factor: scaled}
    yield Result(
        recorded.name,
        "energy",
        worst({key: deviation(found[key], recorded.arrays[key], OUTPUT_ATOL, OUTPUT_RTOL) for key in found}),
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _energy(module: Any, variables: Any, inputs: dict[str, Array]) -> tuple[Array, Array]:
    """The energy of a call, and the factor of an update that it gives."""
    _, sown = with_arguments(module, variables, inputs, mutable=["energies"])
    (energy,) = jax.tree.leaves(sown["energies"])
    scaled, _ = attention_informed(0.1).update({"of": jnp.ones(())}, optax.EmptyState(), energies=sown["energies"])
    return energy, scaled["of"]


def _atol(recorded: Recorded, key: str) -> float:
    if key.endswith(f"/param/{WITHOUT_GRADIENT}") and _normalises_rounding(recorded.settings):
        return 2 * (DEFAULTS | recorded.settings)["lr"] * recorded.settings["steps"]
    return OUTPUT_ATOL


def _normalises_rounding(settings: dict[str, Any]) -> bool:
    return (DEFAULTS | settings)["eps"] < 1e-6
