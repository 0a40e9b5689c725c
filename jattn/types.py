"""The alphabet of dimensions and the aliases used in annotations.

B  batch            H  query heads             D  size of a query or key head
T  query tokens     K  key heads, K divides H  E  size of a value head
S  key tokens       C  width of the model      F  width of the mlp      V  vocabulary

Modules take and return `*B T C`, weights and heads outside the core are `*B T H D`; inside the attention
core everything is head-major, `B H T D`. Masks: True = may attend.
"""

from typing import Any

from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

__all__ = ["Array", "AttentionMask", "Bool", "DTypeLike", "Float", "Int", "Key", "PyTree", "Shaped", "Tokens"]

Tokens = Any
"""A pytree of arrays with a token axis: `B H T ...` for queries, `B K S ...` for keys. Axes of size 1 broadcast."""

DATA_AXIS = "data"
MODEL_AXIS = "model"
"""Names of the mesh axes: examples are divided over the first, heads and hidden features over the second."""

AttentionMask = Bool[Array, "*B S"] | Int[Array, "*B S"] | Bool[Array, "*B T S"] | Bool[Array, "*B h T S"]
"""Of keys: True = a real token, or segment ids, 0 = padding. Of pairs: True = may attend, h is 1 or H."""
