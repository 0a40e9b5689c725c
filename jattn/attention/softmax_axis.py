"""Which axis of the scores the softmax normalises: the keys, or, as released with one paper, the queries."""

from typing import Literal

from jattn.errors import UserError, unknown

SoftmaxAxis = Literal["keys", "queries"]


def check_softmax_axis(axis: str, *, causal: bool) -> None:
    """Raises a UserError for an axis that does not exist, and for a causal softmax over the queries."""
    if axis not in ("keys", "queries"):
        raise unknown("softmax_axis", axis, ("keys", "queries"))
    if causal and axis == "queries":
        raise UserError(
            "a softmax over the queries cannot be causal: it divides each weight by a sum over all queries, later ones "
            "included; choose softmax_axis='keys', or causal=False"
        )
