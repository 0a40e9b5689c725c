"""The contract of an attention module as code, usable on anybody's module.

    check_mechanism(functools.partial(MyAttention, window=4), causal=True)

raises an AssertionError that names every property of `PROPERTIES` that does not hold. What a mechanism legitimately
cannot do it declares in `lacks` (see `jattn.attention.FEATURES`); then it must refuse to be asked for it.
"""

from collections.abc import Callable, Collection, Mapping

import flax.linen as nn
import jax

from jattn.errors import unknown
from jattn.testing import properties as contract
from jattn.testing.case import Case, Sizes

__all__ = ["PROPERTIES", "Case", "Sizes", "check_mechanism"]

PROPERTIES: dict[str, Callable[[Case], None]] = {
    "shapes": contract.shapes,
    "batch_axes": contract.batch_axes,
    "parameters": contract.parameters,
    "hashable": contract.hashable,
    "jit": contract.jit,
    "compiles_once": contract.compiles_once,
    "causality": contract.causality,
    "padding": contract.padding,
    "truncation": contract.truncation,
    "empty_rows": contract.empty_rows,
    "segments": contract.segments,
    "pairs": contract.pairs,
    "context": contract.context,
    "decode": contract.decode,
    "rotary": contract.rotary,
    "bfloat16": contract.bfloat16,
    "implementations": contract.implementations,
    "batch_independence": contract.batch_independence,
    "gradients": contract.gradients,
    "deterministic": contract.deterministic,
    "dropout": contract.dropout,
    "weights": contract.weights,
    "cost": contract.cost,
    "energies": contract.energies,
}


def check_mechanism(
    module_factory: Callable[..., nn.Module],
    *,
    causal: bool,
    lacks: Mapping[str, str] | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008 (an immutable value)
    properties: Collection[str] | None = None,
) -> None:
    """Checks a mechanism's module against the contract.

    Args:
      module_factory: makes an unbound module from the common fields, given as keywords (num_heads, head_dim, causal,
        dropout_rate, dtype, implementation, decode, rotary).
      causal: which form to check.
      lacks: the features it legitimately lacks, with reasons; None = what the module's class declares as `lacks`.
      sizes: of the inputs, where the mechanism cannot take the usual ones.
      properties: names of `PROPERTIES`; None = all.

    Raises:
      AssertionError: naming every property that does not hold, and how.
      UserError: a property is unknown.
    """
    case = Case(module_factory, causal=causal, lacks=lacks, sizes=sizes)
    chosen = PROPERTIES if properties is None else properties
    broken = {}
    for name in chosen:
        if name not in PROPERTIES:
            raise unknown("property", name, PROPERTIES)
        try:
            with jax.default_matmul_precision("float32"):
                PROPERTIES[name](case)
        except Exception as error:  # a crash breaks the property as a wrong number does
            broken[name] = error
    if broken:
        reasons = (f"{name}: {type(error).__name__}: {error}" for name, error in broken.items())
        raise AssertionError("\n\n".join(["properties that do not hold:", *reasons])) from next(iter(broken.values()))
