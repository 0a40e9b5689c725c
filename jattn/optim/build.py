"""The optimizer of a run: one optax chain, its stages named and in order.

clip -> clip each -> scale gradient -> L2 -> precondition (OPTIMIZERS) -> scale update -> decoupled decay
-> learning rate -> plateau factor. Of the two scalings by the energies of attention there is at most one
(`attention_informed`).

Weight decay is one option of all optimizers: `l2` adds weight_decay * p to the gradient, before the optimizer
sees it; `decoupled` adds it to the optimizer's direction, so that p shrinks by lr * weight_decay a step
(Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101). `adam` with decoupled decay is therefore the same
as `adamw`, and `adamw` with `l2` is refused. Directions keep the gradient's sign; the learning rate turns it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jattn.config import OptimConfig
from jattn.errors import UserError, unknown
from jattn.optim import parameters
from jattn.optim.attention_informed import attention_informed
from jattn.optim.schedules import schedule
from jattn.types import Array, Float, PyTree

MUON_RMS = 0.2
"""Root mean square of Muon's updates, that of Adam's in practice, so that one learning rate serves both
(Liu et al. 2025, https://arxiv.org/abs/2502.16982)."""


@dataclass(frozen=True)
class Optimizer:
    """An optax transformation with what the trainer has to know about it.

    Attributes:
      tx: `tx.update(grads, state, params, value=loss)`; its state is a dict from a stage's name to its state.
      schedule: learning rate of update n = 0, 1 ..., before any plateau factor.
      reads_energies: `tx.update` also takes `energies=`, the collection of that name averaged over the batch.
        Computing it costs a share of the step, so it is computed only when this is set.
      reads_attention_gradients: it also takes `attention_gradients=`, see `jattn.attention.value_gradient`.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    reads_energies: bool = False
    reads_attention_gradients: bool = False

    def learning_rate(self, opt_state: PyTree) -> Float[Array, ""]:
        """The learning rate, plateau factor included, of the update that led to this state."""
        updates = opt_state["learning_rate"].count
        rate = jnp.asarray(self.schedule(jnp.maximum(updates - 1, 0)), jnp.float32)
        return rate * opt_state["plateau"].scale if "plateau" in opt_state else rate


def _adam(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)


def _adagrad(config: OptimConfig) -> optax.GradientTransformation:
    """Sums of squares begin at 0, so that the first update is the gradient's sign (Duchi et al. 2011)."""
    return optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.epsilon)


def _sgd(config: OptimConfig) -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, config.nesterov)


def _lion(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.beta1, config.beta2)


def _muon(config: OptimConfig) -> optax.GradientTransformation:
    """Muon on kernels, seen as matrices of inputs by outputs; Adam on everything else."""
    orthogonalize = contrib.scale_by_muon(
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_dimension_numbers=lambda kernels: jax.tree.map_with_path(parameters.matrix_axes, kernels),
    )
    to_rms = optax.stateless(lambda updates, _: jax.tree.map_with_path(_to_muon_rms, updates))
    return optax.partition(
        {"muon": optax.chain(orthogonalize, to_rms), "adam": _adam(config)},
        lambda params: jax.tree.map(lambda yes: "muon" if yes else "adam", parameters.kernels(params)),
    )


def _to_muon_rms(path: tuple, update: Float[Array, "..."]) -> Float[Array, "..."]:
    """An orthogonal matrix of R rows and C columns has a root mean square of max(R, C) ** -0.5."""
    rows, columns = parameters.matrix_shape(path, update)
    return update * (MUON_RMS * max(rows, columns) ** 0.5)


OPTIMIZERS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adam": _adam,
    "adamw": _adam,
    "adagrad": _adagrad,
    "sgd": _sgd,
    "lion": _lion,
    "muon": _muon,
}
"""Name -> the preconditioner: what turns a gradient into a direction."""

DECAY_SCOPES: dict[str, Callable[[PyTree], PyTree] | None] = {
    "kernels": parameters.kernels,
    "linear": parameters.linear,
    "kernels_and_embeddings": parameters.kernels_and_embeddings,
    "all": None,
}
"""Name -> mask of the parameters that decay, or that follow the schedule; None = all."""

DECAY_COUPLINGS = ("decoupled", "l2")

ATTENTION_INFORMED = ("off", "gradient", "update", "paper")


def build(config: OptimConfig, total_steps: int) -> Optimizer:
    """The optimizer that the config names, for a run of `total_steps` updates.

    Raises:
      UserError: unknown names, numbers out of range, a warmup longer than the run.
    """
    _check(config)
    rate = schedule(config, total_steps)
    decay = None
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, DECAY_SCOPES[config.decay_scope])
    informed = _attention_informed(config)
    before = config.attention_informed == "gradient"
    stages = {
        "clip": optax.clip_by_global_norm(config.clip_norm) if config.clip_norm is not None else None,
        "clip_each": _clip_each(config.clip_each) if config.clip_each is not None else None,
        "scale_gradient": informed if before else None,
        "l2": decay if config.decay_coupling == "l2" else None,
        "precondition": OPTIMIZERS[config.name](config),
        "scale_update": None if before else informed,
        "decay": decay if config.decay_coupling == "decoupled" else None,
        "learning_rate": _by_learning_rate(rate, config),
        "plateau": _plateau(config) if config.schedule == "plateau" else None,
    }
    tx = optax.named_chain(*[(name, stage) for name, stage in stages.items() if stage is not None])
    return Optimizer(
        tx,
        rate,
        reads_energies=informed is not None,
        reads_attention_gradients=config.attention_informed == "paper",
    )


def _by_learning_rate(rate: optax.Schedule, config: OptimConfig) -> optax.GradientTransformation:
    """Updates times minus the learning rate: the scheduled one for the parameters of `schedule_scope`."""
    scope = DECAY_SCOPES[config.schedule_scope]
    if scope is None:
        return optax.scale_by_learning_rate(rate)

    def update(updates, state, params):
        rates = jax.tree.map(lambda yes: rate(state.count) if yes else config.learning_rate, scope(params))
        scaled = jax.tree.map(lambda u, r: -jnp.asarray(r, u.dtype) * u, updates, rates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def _clip_each(limit: float) -> optax.GradientTransformation:
    """Each array's gradient scaled down to at most this norm."""

    def clip(gradient: Float[Array, "..."]) -> Float[Array, "..."]:
        return gradient * jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(gradient), jnp.finfo(jnp.float32).tiny))

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def _attention_informed(config: OptimConfig) -> optax.GradientTransformationExtraArgs | None:
    match config.attention_informed:
        case "off":
            return None
        case "paper":
            tx = attention_informed(form="paper", gamma=config.energy_gamma)
            return tx if config.clip_norm is None else _clipping_attention_gradients(tx, config.clip_norm)
        case placement:
            return attention_informed(config.energy_scale, placement, config.energy_mix)


def _clipping_attention_gradients(
    tx: optax.GradientTransformationExtraArgs, clip_norm: float
) -> optax.GradientTransformationExtraArgs:
    """The transformation given attention gradients of at most this global norm."""
    clip = optax.clip_by_global_norm(clip_norm)

    def update(updates, state, params=None, *, attention_gradients=None, **extra):
        clipped, _ = clip.update(attention_gradients, optax.EmptyState())
        return tx.update(updates, state, params, attention_gradients=clipped, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _plateau(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    return contrib.reduce_on_plateau(
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        accumulation_size=config.plateau_window,
    )


def _check(config: OptimConfig) -> None:
    if config.name not in OPTIMIZERS:
        raise unknown("optimizer", config.name, OPTIMIZERS)
    for option in ("decay_scope", "schedule_scope"):
        if getattr(config, option) not in DECAY_SCOPES:
            raise unknown(option.replace("_", " "), getattr(config, option), DECAY_SCOPES)
    if config.decay_coupling not in DECAY_COUPLINGS:
        raise unknown("decay coupling", config.decay_coupling, DECAY_COUPLINGS)
    if config.attention_informed not in ATTENTION_INFORMED:
        raise unknown("optim.attention_informed", config.attention_informed, ATTENTION_INFORMED)
    if config.name == "adamw" and config.decay_coupling == "l2":
        raise UserError(
            "optim.name=adamw decouples its weight decay by definition: for optim.decay_coupling=l2 use optim.name=adam"
        )
    for name, (allowed, holds) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not holds(value):  # a NaN holds nowhere
            raise UserError(f"optim.{name}={value} is out of range: it must be {allowed}")


_Range = tuple[str, Callable[[float | int], bool]]
_NOT_NEGATIVE: _Range = ("finite and not negative", lambda x: 0 <= x < float("inf"))
_POSITIVE: _Range = ("finite and positive", lambda x: 0 < x < float("inf"))
_AT_LEAST_ONE: _Range = ("at least 1", lambda x: x >= 1)
_RATE: _Range = ("at least 0 and below 1", lambda x: 0 <= x < 1)

_RANGES: dict[str, _Range] = {
    "learning_rate": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "final_fraction": ("between 0 and 1", lambda x: 0 <= x <= 1),
    "step_size": _AT_LEAST_ONE,
    "step_gamma": _POSITIVE,
    "step_limit": _AT_LEAST_ONE,
    "plateau_factor": ("above 0 and below 1", lambda x: 0 < x < 1),
    "plateau_patience": _AT_LEAST_ONE,
    "plateau_window": _AT_LEAST_ONE,
    "beta1": _RATE,
    "beta2": _RATE,
    "epsilon": _POSITIVE,
    "momentum": _RATE,
    "weight_decay": _NOT_NEGATIVE,
    "clip_norm": _POSITIVE,
    "clip_each": _POSITIVE,
    "energy_scale": _NOT_NEGATIVE,
    "energy_mix": ("between 0 and 1", lambda x: 0 <= x <= 1),
    "energy_gamma": _NOT_NEGATIVE,
    "accumulation_steps": _AT_LEAST_ONE,
    "ema_decay": _RATE,
}
