"""Which devices hold what: the mesh's size, and the sharding of every array of a state."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jattn.config import Config
from jattn.errors import UserError, unknown
from jattn.optim.parameters import path_name
from jattn.training.state import TrainState
from jattn.types import MODEL_AXIS, PyTree

LOGICAL_AXES: dict[str, str | None] = {
    "vocab": MODEL_AXIS,
    "heads": MODEL_AXIS,
    "mlp": MODEL_AXIS,
    "embed": None,
    "head_dim": None,
    "length": None,
}
"""Logical name of a parameter's axis -> the mesh axis it is divided over; None = every device holds all of it."""


def layout(config: Config, num_devices: int) -> tuple[int, int]:
    """Devices on the data and the model axis, after checking that batches and heads divide over them."""
    data, model = config.parallel.data, config.parallel.model
    for name, value in ("data", data), ("model", model):
        if value is not None and value < 1:
            raise UserError(f"parallel.{name}={value} must be at least 1")
    if config.parallel.strategy == "pmap" and model > 1:
        raise UserError(
            f"parallel.strategy=pmap cannot divide a model (parallel.model={model}): "
            "use parallel.strategy=jit or parallel.model=1"
        )
    if data is None:
        if num_devices % model:
            raise UserError(
                f"parallel.model={model} does not divide the {num_devices} devices: "
                "choose a divisor, or say with parallel.data how many more to use"
            )
        data = num_devices // model
    if data * model > num_devices:
        raise UserError(
            f"parallel.data={data} times parallel.model={model} needs {data * model} devices "
            f"and there are {num_devices}: lower one of them"
        )
    if config.model.num_heads % model:
        raise UserError(
            f"model.num_heads={config.model.num_heads} does not divide over parallel.model={model} devices: "
            "change one of them"
        )
    micro = config.optim.accumulation_steps
    _check_batch("data.batch_size", config.data.batch_size, data, micro)
    if config.data.eval_batch_size is not None:
        _check_batch("data.eval_batch_size", config.data.eval_batch_size, data, 1)
    return data, model


def _check_batch(name: str, size: int, devices: int, micro_batches: int) -> None:
    parts = devices * micro_batches
    if size < 1 or size % parts:
        raise UserError(
            f"{name}={size} does not divide over {devices} devices x {micro_batches} micro-batches "
            f"(optim.accumulation_steps): use a multiple of {parts}"
        )


def state_shardings(params: PyTree, state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of each array of a state.

    Args:
      params: shapes of the parameters, boxed with the logical names of their axes.
      state: shapes of the state. What lies under a parameter's path in it and has its shape (its average,
        the optimizer's moments) is divided as the parameter is; everything else is replicated.
      mesh: to divide over.
    """
    is_box = lambda x: isinstance(x, nn.Partitioned)  # noqa: E731
    specs = {
        path_name(path): (leaf.shape, partition_spec(names, leaf.shape, mesh))
        for (path, leaf), names in zip(
            jax.tree.leaves_with_path(nn.meta.unbox(params)),
            [box.names if is_box(box) else () for box in jax.tree.leaves(params, is_leaf=is_box)],
            strict=True,
        )
    }

    def sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        keys = path_name(path).split("/")
        for start in range(len(keys)):
            shape, spec = specs.get("/".join(keys[start:]), (None, None))
            if shape == leaf.shape:
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map_with_path(sharding, state)


def partition_spec(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Mesh axes for the logical names of an array's axes, by `LOGICAL_AXES`.

    An axis whose size the devices do not divide stays whole (a vocabulary of 257), and so does a second axis
    that would be divided over the same devices.

    Raises:
      UserError: a name that `LOGICAL_AXES` does not have.
    """
    axes: list[str | None] = []
    for name, size in zip(names, shape, strict=False):
        if name is not None and name not in LOGICAL_AXES:
            raise unknown("logical axis", name, LOGICAL_AXES)
        axis = None if name is None else LOGICAL_AXES[name]
        divides = axis in mesh.shape and axis not in axes and size % mesh.shape[axis] == 0
        axes.append(axis if divides else None)
    return PartitionSpec(*axes)
