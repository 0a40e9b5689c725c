"""One training step and one evaluation step, as pure functions.

A batch is a dict of `inputs`, `targets`, `weight` and `example_id`, examples first. The same functions serve
one device, `jax.jit` over a mesh (where every array is global) and, given the name of the mapped axis,
`jax.pmap` (where every array is one device's share).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jattn.attention import value_gradient
from jattn.config import Config
from jattn.data.augment import partner
from jattn.optim.attention_informed import mean_energy
from jattn.optim.build import Optimizer
from jattn.optim.parameters import path_name
from jattn.training import losses
from jattn.training.state import TrainState
from jattn.types import Array, Bool, Float, Int, Key, PyTree, Shaped

Batch = dict[str, Any]
Metrics = dict[str, Any]
Prepare = Callable[[Array, Array, Any], Array]
"""A data set's `prepare(inputs, ids, key | None)`: conversion and, given a key, random augmentation."""

Mix = Callable[[Array, Array, Array, Any], tuple[Array, Array | None]]
"""A data set's `mix(inputs, others, ids, key)`: examples mixed with others, and each one's own share."""

Measure = Callable[[Array, Array, Array], PyTree]
"""Sums over a batch, from logits, targets and weight: arrays that add up over batches and devices."""

_GENERATOR = "threefry2x32"

STREAMS = ("augment", "dropout", "sampling")
"""The independent uses of randomness in a step."""


def root_key(seed: int) -> Key[Array, ""]:
    """The key that all randomness of a run derives from, of a named generator, not of JAX's default."""
    return jax.random.key(seed, impl=_GENERATOR)


def root_data(seed: int) -> np.ndarray:
    """`root_key` as numbers: the argument of programs that serve every seed, since no seed is compiled into them."""
    return np.asarray(jax.random.key_data(root_key(seed)))


def from_data(root: Shaped[Array, "2"]) -> Key[Array, ""]:
    """The `root_key` of these numbers."""
    return jax.random.wrap_key_data(root, impl=_GENERATOR)


def init_key(root: Key[Array, ""]) -> Key[Array, ""]:
    """The key of the initial parameters: that of a step which no run reaches."""
    return jax.random.fold_in(root, 2**32 - 1)


def step_keys(root: Key[Array, ""], step: Int[Array, ""]) -> dict[str, Key[Array, ""]]:
    """The keys of one step, by stream: a function of the run's `root_key` and the step and nothing else."""
    keys = jax.random.split(jax.random.fold_in(root, step), len(STREAMS))
    return {name: keys[i] for i, name in enumerate(STREAMS)}


def make_train_step(
    model: nn.Module,
    optimizer: Optimizer,
    config: Config,
    prepare: Prepare,
    axis_name: str | None = None,
    mix: Mix | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The function (state, batch, root=None) -> (state, metrics) of one optimizer step.

    root: the run's `root_data`; None = that of `config.seed`, which is then part of the compiled program.

    The loss is the weighted sum over all devices and micro-batches divided by the global sum of weights, so
    neither changes the step. Micro-batch a of A holds examples a, a + A, a + 2A ...: the examples of each
    device stay where they are. What modules sow into `losses` is added to the loss once (its mean over
    micro-batches and devices). A non-finite loss or gradient voids the step: only `state.step` advances.

    Metrics are pairs (sum, count) of float32 scalars, both 0 in a voided step:
      loss (of the task, without regularizer), accuracy, grad_norm (before clipping), learning_rate (after the
      plateau factor), regularizer, if the model sows any `losses`, and energy (mean over layers), if the optimizer
      reads energies;
    and `nonfinite`, a bool vector: the loss, then the gradient of each leaf of `params` (`name_nonfinite`).

    Args:
      model: `model.apply({"params": params}, inputs, deterministic=False, ...) -> logits`.
      optimizer: `energies` and attention gradients are computed only when it reads them.
      config: the seed, the loss, whether to augment, micro-batches and the average's decay; all static.
      prepare: the data set's.
      axis_name: of the surrounding pmap; None under jit.
      mix: the data set's; None = examples are never mixed. Each is mixed with the next one of its micro-batch, on
        whatever device that is. Each target's loss counts with its share; the accuracy is that of an example's own
        target.
    """
    per_example = losses.LOSSES[config.loss.name]
    micro_batches = config.optim.accumulation_steps
    collections = ["losses", "energies"] if optimizer.reads_energies else ["losses"]

    def objective(variables: PyTree, batch: Batch, keys: dict, total: Array, parts: int):
        """This part's share of the whole batch's loss, and what else is known of the part."""
        key = keys["augment"] if config.data.augment else None
        inputs, own = prepare(batch["inputs"], batch["example_id"], key), None
        if mix is not None and key is not None:
            inputs, own = mix(inputs, partner(inputs, axis_name), batch["example_id"], key)
        rngs = {name: keys[name] for name in ("dropout", "sampling")}
        logits, sown = model.apply(variables, inputs, deterministic=False, rngs=rngs, mutable=collections)
        logits = logits.astype(jnp.float32)
        targets, weight = batch["targets"], batch["weight"]
        values = per_example(logits, targets, config.loss.label_smoothing)
        sums = {"loss": losses.weighted(values, weight if own is None else own * weight)[0]}
        if own is not None:
            others = per_example(logits, partner(targets, axis_name), config.loss.label_smoothing)
            sums["loss"] += losses.weighted(others, (1 - own) * partner(weight, axis_name))[0]
        sums["accuracy"] = losses.weighted(losses.correct(logits, targets, config.loss.threshold), weight)[0]
        share = sums["loss"] / total
        if regularizers := jax.tree.leaves(sown.pop("losses", {})):
            # A scan over layers sows a vector, one entry a layer.
            sums["regularizer"] = sum(jnp.sum(r.astype(jnp.float32)) for r in regularizers) / parts
            share += sums["regularizer"]
        if optimizer.reads_energies:
            sums["energies"] = jax.tree.map(lambda e: e / parts, sown.pop("energies", {}))
        return share, sums

    def train_step(
        state: TrainState, batch: Batch, root: Shaped[Array, "2"] | None = None
    ) -> tuple[TrainState, Metrics]:
        keys = step_keys(root_key(config.seed) if root is None else from_data(root), state.step)
        count = _sum_devices(jnp.sum(batch["weight"]), axis_name)
        total = jnp.where(count > 0, count, 1.0)
        parts = micro_batches
        if axis_name is not None:
            parts *= jax.lax.axis_size(axis_name)
            for stream in ("dropout", "sampling"):  # augmentation is seeded by the example
                keys[stream] = jax.random.fold_in(keys[stream], jax.lax.axis_index(axis_name))

        variables = {"params": state.params}
        if optimizer.reads_attention_gradients:
            inputs = prepare(batch["inputs"], batch["example_id"], None)  # for its shape only
            variables |= value_gradient.zeros(model, state.params, inputs)

        def micro_step(gradients: PyTree, micro: tuple[Array, Batch]) -> tuple[PyTree, PyTree]:
            index, part = micro
            own = keys | {s: jax.random.fold_in(keys[s], index) for s in ("dropout", "sampling")}
            gradient, sums = jax.grad(objective, has_aux=True)(variables, part, own, total, parts)
            return jax.tree.map(jnp.add, gradients, gradient), sums

        if micro_batches == 1:
            gradients, sums = jax.grad(objective, has_aux=True)(variables, batch, keys, total, parts)
        else:
            zeros = jax.tree.map(jnp.zeros_like, variables)
            stacked = (jnp.arange(micro_batches), jax.tree.map(lambda x: _strided(x, micro_batches), batch))
            gradients, sums = jax.lax.scan(micro_step, zeros, stacked)
            sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
        gradients, sums = _sum_devices((gradients, sums), axis_name)
        gradients, of_attention = gradients["params"], gradients.get(value_gradient.COLLECTION)

        loss = sums["loss"] / total
        regularizer = sums["regularizer"] if "regularizer" in sums else jnp.zeros(())
        nonfinite = _nonfinite([loss + regularizer, *jax.tree.leaves(gradients)])
        extra = {"energies": sums["energies"]} if optimizer.reads_energies else {}
        if optimizer.reads_attention_gradients:
            extra["attention_gradients"] = of_attention

        def updated(state: TrainState) -> TrainState:
            updates, opt_state = optimizer.tx.update(gradients, state.opt_state, state.params, value=loss, **extra)
            params = optax.apply_updates(state.params, updates)
            ema = state.ema
            if ema is not None:
                ema = optax.incremental_update(params, ema, 1.0 - config.optim.ema_decay)
            return TrainState(step=state.step, params=params, opt_state=opt_state, ema=ema)

        applied = ~jnp.any(nonfinite)
        # A branch, where a choice between new and old arrays would have to keep both.
        new = jax.lax.cond(applied, updated, lambda state: state, state)
        one = jnp.ones(())
        metrics = {
            "loss": (sums["loss"], count),
            "accuracy": (sums["accuracy"], count),
            "grad_norm": (optax.tree.norm(gradients), one),
            "learning_rate": (optimizer.learning_rate(new.opt_state), one),
        }
        if "regularizer" in sums:
            metrics["regularizer"] = (regularizer, one)
        if optimizer.reads_energies:
            metrics["energy"] = (mean_energy(sums["energies"]), one)
        metrics = jax.tree.map(lambda x: jnp.where(applied, x, 0.0), metrics)
        return new.replace(step=state.step + 1), metrics | {"nonfinite": nonfinite}

    return train_step


def make_eval_step(
    model: nn.Module, prepare: Prepare, measure: Measure, axis_name: str | None = None
) -> Callable[[PyTree, Batch], PyTree]:
    """The function (params, batch) -> what `measure` sums, over all devices. Deterministic, without augmentation."""

    def eval_step(params: PyTree, batch: Batch) -> PyTree:
        inputs = prepare(batch["inputs"], batch["example_id"], None)
        logits = model.apply({"params": params}, inputs, deterministic=True).astype(jnp.float32)
        return _sum_devices(measure(logits, batch["targets"], batch["weight"]), axis_name)

    return eval_step


def name_nonfinite(nonfinite: np.ndarray | Array, params: PyTree) -> str:
    """Which of the things a step's `nonfinite` flags is to be named: on the host, after a voided step.

    Args:
      nonfinite: the metric of that name.
      params: the parameters, or anything of their structure.

    Returns:
      "the loss", "the gradient of block_0/mlp/kernel" (the first such parameter), or both joined by "and".
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    loss, *gradients = np.asarray(nonfinite).tolist()
    names = ["the loss"] if loss else []
    names += [f"the gradient of {path}" for path, flag in zip(paths, gradients, strict=True) if flag][:1]
    return " and ".join(names)


def _strided(x: Shaped[Array, "B ..."], parts: int) -> Shaped[Array, "A M ..."]:
    """Rows a, a + parts, a + 2 parts ... as slice a: with rows divided over devices, no row moves."""
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _sum_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _nonfinite(arrays: list[Float[Array, "..."]]) -> Bool[Array, " N"]:
    return jnp.stack([~jnp.all(jnp.isfinite(x)) for x in arrays])
