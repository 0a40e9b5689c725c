"""Beginning a run with the weights of another one: `init_from`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattn import config_json
from jattn.attention.mechanism import Mechanism, mix
from jattn.config import ModelConfig
from jattn.errors import UserError
from jattn.models.transformer import Transformer
from jattn.optim.parameters import path_name
from jattn.training.checkpoint import Checkpoints
from jattn.training.run import read_config
from jattn.training.setup import Experiment
from jattn.training.state import TrainState
from jattn.types import Array

OUTPUTS = ("head", "output")
"""Modules whose size the data decides: they are new where it is another one."""


class Weights(NamedTuple):
    """What a run takes from another one.

    Attributes:
      source: where from, for the log.
      arrays: parameters by path.
      names: of all parameters of this run, in their order.
      left_out: of the other run's parameters, those that this one has no place for.
    """

    source: str
    arrays: dict[str, np.ndarray]
    names: list[str]
    left_out: list[str]

    def put_into(self, state: TrainState) -> TrainState:
        """The state before the first step with these weights in it, and in its moving average."""

        def placed(path: tuple, leaf: Array) -> Array:
            array = self.arrays.get(path_name(path))
            if array is None:
                return leaf
            array = array.astype(leaf.dtype)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, array.__getitem__)

        params = jax.tree.map_with_path(placed, state.params)
        # Copies: a step donates the buffers of its state, each of them once.
        return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))

    def report(self) -> list[str]:
        """Lines for the log: what was kept, what is new, what was left out."""
        size = sum(array.size for array in self.arrays.values())
        new = [name for name in self.names if name not in self.arrays]
        lines = [f"init_from: {len(self.arrays)} of {len(self.names)} arrays ({size:,} parameters) of {self.source}"]
        for what, some, everything in (
            ("kept", list(self.arrays), self.names),
            ("new", new, self.names),
            ("left out", self.left_out, [*self.left_out, *self.arrays]),
        ):
            lines.append(f"init_from, {what}: {', '.join(collapsed(some, everything)) or 'nothing'}")
        return lines


def initial_weights(experiment: Experiment, workdir: Path, *, restart: bool) -> Weights | None:
    """What a run begins with according to `init_from`; None if random, or if the run in `workdir` has begun already.

    Raises:
      UserError: there is no such run, or its weights do not fit this model; nothing has been written.
    """
    config = experiment.config
    if not config.init_from:
        return None
    if not restart and Checkpoints(workdir / "checkpoints", config.checkpoint, warn=print).steps():
        return None
    folder = Path(config.init_from).expanduser()
    try:
        source = read_config(folder)
        checkpoints = Checkpoints(folder / "checkpoints", source.checkpoint, warn=print, read_only=True)
        step, arrays = checkpoints.params()
    except UserError as error:
        raise UserError(f"init_from={config.init_from}: {error}") from None
    wanted = {
        path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(experiment.parallel.abstract_state.params)
    }
    same = {name: array for name, array in arrays.items() if name in wanted}
    changed = _changed_layers(source.model, experiment.model)
    others = [name for name, array in same.items() if array.shape != wanted[name].shape]
    misfits = [name for name in others if not _may_differ(name, changed)]
    renewed = {_module(name) for name in others}  # whole: an old bias does not go with a new kernel
    kept = {name: array for name, array in same.items() if _module(name) not in renewed}
    if misfits or not kept:
        shapes = [f"{name} is {arrays[name].shape} there and {wanted[name].shape} here" for name in misfits]
        raise UserError(_does_not_fit(folder, shapes, source.model, config.model))
    if "token_embedding/embedding" in kept:
        _check_vocabulary(folder, experiment.dataset.kept())
    left_out = [name for name in arrays if name not in kept]
    return Weights(f"{folder}, step {step}", kept, list(wanted), left_out)


def collapsed(names: Sequence[str], everything: Sequence[str]) -> list[str]:
    """Paths in short: a module in place of all of its parameters.

    >>> collapsed(["a/b/kernel", "a/b/bias", "c/bias"], ["a/b/kernel", "a/b/bias", "c/bias", "c/kernel"])
    ['a', 'c/bias']
    """
    chosen, others = set(names), set(everything) - set(names)
    short: dict[str, None] = {}
    for name in everything:
        if name not in chosen:
            continue
        parts = name.split("/")
        prefixes = ("/".join(parts[:end]) for end in range(1, len(parts)))
        whole = (p for p in prefixes if not any(other.startswith(f"{p}/") for other in others))
        short[next(whole, name)] = None
    return list(short)


def _changed_layers(there: ModelConfig, here: Transformer) -> set[int]:
    """The layers whose mechanism is another one."""
    theirs = mix(there.depth, there.attention.name, there.attention.options, there.layers, there.pattern)
    ours: Sequence[Mechanism] = here.attention
    return {i for i, (one, other) in enumerate(zip(theirs, ours, strict=False)) if one != other}


def _module(name: str) -> str:
    """The path of the module that a parameter belongs to."""
    return name.rpartition("/")[0] or name


def _may_differ(name: str, changed: set[int]) -> bool:
    """Whether a parameter of another shape is a new one: of another mechanism, or for other classes."""
    module, _, rest = name.partition("/")
    of_mechanism = rest.startswith("attention/") and int(module.removeprefix("block_")) in changed
    return of_mechanism or module in OUTPUTS


def _does_not_fit(folder: Path, shapes: list[str], there: ModelConfig, here: ModelConfig) -> str:
    flat_there, flat_here = config_json.flatten(there), config_json.flatten(here)
    options = [
        f"model.{name} is {flat_there[name]!r} there and {flat_here[name]!r} here"
        for name in flat_there
        if flat_there[name] != flat_here[name]
    ]
    what = "; ".join(shapes[:4]) or "no parameter has the same name"
    more = f"; and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    advice = f"set the options of the model as there ({'; '.join(options)})" if options else "choose another run"
    return f"the weights of {folder} do not fit this model: {what}{more}: {advice}"


def _check_vocabulary(folder: Path, kept: dict[str, str]) -> None:
    """Raises UserError if the data's tokens are not those that the weights were trained on."""
    for name, text in kept.items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"the data's tokens are not those of {folder}, of the same number: set data.tokenizer={path}"
            )
