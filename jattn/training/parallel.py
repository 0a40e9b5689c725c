"""How a step is divided over devices: two strategies behind one interface.

Both keep an ordinary `TrainState` (no leading axis of devices) in arrays that know their sharding, so nobody
else has to know which strategy runs: a checkpoint of one can be restored by the other.
"""

import abc
import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jattn.config import Config
from jattn.data.dataset import Dataset
from jattn.errors import UserError, unknown
from jattn.optim.build import Optimizer
from jattn.training import initialization, losses
from jattn.training.placement import layout, state_shardings
from jattn.training.state import TrainState
from jattn.training.step import Batch, Measure, Metrics, from_data, init_key, make_eval_step, make_train_step, root_data
from jattn.types import DATA_AXIS, MODEL_AXIS, Array, PyTree, Shaped

EvalStep = Callable[[PyTree, Mapping[str, np.ndarray]], PyTree]
"""(params, batch) -> sums over the batch."""


class Parallel(abc.ABC):
    """The compiled steps of a run, and where their arrays lie.

    Attributes:
      mesh: the devices.
      abstract_state: shapes, dtypes and shardings of the state: the target of a restore.
    """

    mesh: Mesh
    abstract_state: TrainState

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        dataset: Dataset,
        devices: Sequence[jax.Device],
    ):
        self._config, self._model, self._optimizer, self._dataset = config, model, optimizer, dataset
        num_data, num_model = layout(config, len(devices))
        self.mesh = self._make_mesh(num_data, num_model, list(devices)[: num_data * num_model])
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._divided = NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))
        self._num_data, self._own = num_data, self.rows(num_data)
        self._root = root_data(config.seed)  # an argument of the programs, so that runs of all seeds share them
        self._init_params = jax.jit(self._initial_params)  # traced once for both of its uses
        with self._context():
            params = jax.eval_shape(self._init_params, self._root)
        state = jax.eval_shape(self._create_state, params)
        shardings = state_shardings(params, state, self.mesh)
        self.abstract_state = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
        )
        self._init = jax.jit(self._init_state, out_shardings=shardings)
        self._train = self._compile_train(shardings)
        self._eval = self.compile_eval(losses.means(config.loss))

    def init_state(self) -> TrainState:
        """The state before the first step: a function of the seed. Each device makes its own part of it."""
        with self._context():
            return self._init(self._root)

    def train_step(self, state: TrainState, batch: Mapping[str, np.ndarray]) -> tuple[TrainState, Metrics]:
        """One step (see `make_train_step`). The state's buffers are donated: it cannot be used afterwards."""
        with self._context():
            return self._train(state, self.place(batch), self._root)

    def eval_step(self, params: PyTree, batch: Mapping[str, np.ndarray]) -> Metrics:
        """The metrics of one batch (see `losses.means`)."""
        return self._eval(params, batch)

    def compile_eval(self, measure: Measure) -> EvalStep:
        """The function (params, batch) -> what `measure` sums over the batch, compiled when first called."""
        step = self._compile_eval(measure)

        def eval_step(params: PyTree, batch: Mapping[str, np.ndarray]) -> PyTree:
            with self._context():
                return step(params, self.place(batch))

        return eval_step

    def place(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """The batch on the devices, its examples divided over them. Each process passes its own rows of it."""
        return {name: self._placed(x) for name, x in self._arranged(batch).items()}

    def rows(self, batch_size: int) -> slice:
        """Which examples of a batch this process passes: those of its devices."""
        places = self._divided.addressable_devices_indices_map((batch_size,)).values()
        bounds = [place.indices(batch_size) for (place,) in places]
        return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))

    def _placed(self, own: np.ndarray) -> jax.Array:
        size = len(own) * self._num_data // (self._own.stop - self._own.start)
        before = size * self._own.start // self._num_data

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            return own[start - before : stop - before]

        # make_array_from_process_local_data does the same in three times the time.
        return jax.make_array_from_callback((size, *own.shape[1:]), self._divided, part)

    def check_train_step(self) -> None:
        """Raises what the training step would raise when it is traced. Under jit it is not traced again by a step."""
        with self._context():
            jax.eval_shape(self._train, self.abstract_state, self._abstract_batch(), self._root)

    def lower_train_step(self, platform: str) -> jax.stages.Lowered:
        """The training step lowered for "cpu", "cuda", "rocm" or "tpu"; such a device need not be present."""
        with self._context():
            step = jax.jit(self._train, donate_argnums=0)
            traced = step.trace(self.abstract_state, self._abstract_batch(), self._root)
            return traced.lower(lowering_platforms=(platform,))

    @abc.abstractmethod
    def _make_mesh(self, num_data: int, num_model: int, devices: list[jax.Device]) -> Mesh: ...

    @abc.abstractmethod
    def _context(self) -> AbstractContextManager:
        """What steps are traced and called under."""

    @abc.abstractmethod
    def _arranged(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The batch in the shape the compiled steps take."""

    @abc.abstractmethod
    def _compile_train(self, shardings: TrainState) -> Callable[..., tuple[TrainState, Metrics]]:
        """The compiled train_step, with the root as an argument."""

    @abc.abstractmethod
    def _compile_eval(self, measure: Measure) -> Callable[[PyTree, Batch], PyTree]:
        """A compiled eval_step."""

    def _example_batch(self) -> Batch:
        """A batch of the right shapes and dtypes (one example, repeated)."""
        zero = np.zeros(1, np.int64)
        example = self._dataset.examples("train", zero, zero) | {"example_id": zero.astype(np.int32)}
        size = self._config.data.batch_size
        return {name: np.broadcast_to(x, (size, *x.shape[1:])) for name, x in example.items()}

    def _abstract_batch(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._divided)
            for name, x in self._arranged(self._example_batch()).items()
        }

    def _initial_params(self, root: Shaped[Array, "2"]) -> PyTree:
        """Initial parameters, boxed with the logical names of their axes."""
        batch = self._example_batch()
        # The forward pass is traced for its shapes only: the compiler drops it.
        inputs = self._dataset.prepare(jnp.asarray(batch["inputs"]), jnp.asarray(batch["example_id"]), None)
        key, options = init_key(from_data(root)), self._config.model
        params = self._model.init(key, inputs)["params"]
        return initialization.redrawn(params, options.initialization, key, options.depth)

    def _init_state(self, root: Shaped[Array, "2"]) -> TrainState:
        return self._create_state(self._init_params(root))

    def _create_state(self, params: PyTree) -> TrainState:
        with_ema = self._config.optim.ema_decay is not None
        return TrainState.create(nn.meta.unbox(params), self._optimizer.tx, with_ema)


class JitParallel(Parallel):
    """`jax.jit` over a mesh with axes data and model: the compiler divides one global program.

    Any number of devices gives the same numbers, dropout included.
    """

    def _make_mesh(self, num_data: int, num_model: int, devices: list[jax.Device]) -> Mesh:
        axes = (DATA_AXIS, MODEL_AXIS)
        # With jax's default, explicit axes, linen's Embed and divided Dense raise.
        return jax.make_mesh((num_data, num_model), axes, (AxisType.Auto,) * 2, devices=devices)

    def _context(self) -> AbstractContextManager:
        return jax.set_mesh(self.mesh)  # so that the attention core sees it

    def _arranged(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return batch

    def _compile_train(self, shardings: TrainState) -> Callable[..., tuple[TrainState, Metrics]]:
        prepare = self._dataset.prepare
        train = make_train_step(self._model, self._optimizer, self._config, prepare, mix=self._dataset.mix)
        # Unless pinned, replicated parameters may come back divided, and the second step compiles again.
        return jax.jit(train, donate_argnums=0, out_shardings=(shardings, self._replicated))

    def _compile_eval(self, measure: Measure) -> Callable[[PyTree, Batch], PyTree]:
        evaluate = make_eval_step(self._model, self._dataset.prepare, measure)
        return jax.jit(evaluate, out_shardings=self._replicated)


class PmapParallel(Parallel):
    """`jax.pmap` over the data axis: each device runs the program on its examples, sums go through psum.

    Any number of devices gives the same numbers without dropout, whose keys are folded with the device.
    """

    def _make_mesh(self, num_data: int, num_model: int, devices: list[jax.Device]) -> Mesh:
        del num_model  # 1: see `layout`
        if jax.process_count() > 1:
            raise UserError("parallel.strategy=pmap runs in one process: use parallel.strategy=jit")
        return jax.make_mesh((num_data,), (DATA_AXIS,), (AxisType.Auto,), devices=devices)

    def _context(self) -> AbstractContextManager:
        return contextlib.nullcontext()

    def _arranged(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: x.reshape(self.mesh.size, -1, *x.shape[1:]) for name, x in batch.items()}

    def _compile_train(self, shardings: TrainState) -> Callable[..., tuple[TrainState, Metrics]]:
        prepare = self._dataset.prepare
        train = make_train_step(self._model, self._optimizer, self._config, prepare, DATA_AXIS, mix=self._dataset.mix)
        return self._mapped(train, (None, 0, None), donate_argnums=0)

    def _compile_eval(self, measure: Measure) -> Callable[[PyTree, Batch], PyTree]:
        return self._mapped(make_eval_step(self._model, self._dataset.prepare, measure, DATA_AXIS), (None, 0))

    def _mapped(self, step: Callable, in_axes: tuple, **options: Any) -> Callable:
        """Axis None: the state is one ordinary array on all devices, as it is under jit."""
        axes = {"in_axes": in_axes, "out_axes": None, "devices": list(self.mesh.devices)}
        return jax.pmap(step, DATA_AXIS, **axes, **options)


STRATEGIES: dict[str, type[Parallel]] = {"jit": JitParallel, "pmap": PmapParallel}


def build(
    config: Config,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: Dataset,
    devices: Sequence[jax.Device] | None = None,
) -> Parallel:
    """The compiled steps of a run, divided as `config.parallel` says.

    Args:
      config: of the run.
      model: takes what `dataset.prepare` returns.
      optimizer: of the run.
      dataset: gives the shapes of the inputs, and `prepare`.
      devices: to use; None = all there are.

    Raises:
      UserError: unknown strategy, more devices asked for than there are, a batch that does not divide over
        devices and micro-batches, heads that do not divide over the model axis.
    """
    strategy = config.parallel.strategy
    if strategy not in STRATEGIES:
        raise unknown("parallel strategy", strategy, STRATEGIES)
    return STRATEGIES[strategy](config, model, optimizer, dataset, jax.devices() if devices is None else devices)
