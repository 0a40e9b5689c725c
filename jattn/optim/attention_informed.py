"""Optimizers that read the energies of attention: an optax transformation, for any chain.

Natural attention (repository jeroaranda/naturalattention) hands the energy E of each layer, a statistic of its scores,
to the optimizer, which scales the gradient, or the update, of the whole block by

    f = 1 + tanh(energy_scale E)                                   between 1 and 2 for E > 0

An energy belongs to the parameter path before the name of its module: the energy of `block_3/attention` to everything
below `block_3`, norms and mlp included. A parameter below several of them takes the nearest. Parameters without an
energy (embeddings, output layer) are left as they are.

    placement="gradient", before the preconditioner    g <- f g                     as released
    placement="update", after it                       u <- mix u + (1 - mix) f u   its second optimizer, alpha = mix
    form="paper", after it                             u <- a u + (1 - a) g_A       a = sigmoid(gamma E)

The last is the paper's formula in our reading: u is Adam's update, and g_A the gradient of the value projection with
(I + A) times the gradient of the values in place of the gradient of the values, A the layer's weights
(`jattn.attention.value_gradient`). Only value projections have one, so that all other parameters keep u.
"""

from collections import defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jattn.errors import UserError, unknown
from jattn.types import Array, Float, PyTree

PLACEMENTS = ("gradient", "update")
FORMS = ("published", "paper")

Path = tuple[str, ...]


def attention_informed(
    energy_scale: float = 0.1,
    placement: str = "gradient",
    mix: float = 0.5,
    form: str = "published",
    gamma: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Scales what passes through it by the energies of attention; see the module's docstring for the formulas.

    It has no state. Inside `optax.MultiSteps` it would see the energies of the last micro-batch only: average them, as
    the trainer does, or put it before.

    Args:
      energy_scale: of the energies, before tanh.
      placement: what is scaled: "gradient" (put it before the preconditioner), "update" (after it).
      mix: share of the update that is not scaled; placement "update" only.
      form: "published", or "paper" (after the preconditioner, whatever the placement).
      gamma: of the energies, before sigmoid; form "paper" only.

    Returns:
      A transformation whose `update` takes `energies=`, the collection of that name that the model sowed, and in form
      "paper" `attention_gradients=`, the derivative with respect to `jattn.attention.value_gradient.COLLECTION`.

    Raises:
      UserError: unknown placement or form, or a number out of range; from `update`, no energies.

    >>> tx = optax.chain(attention_informed(0.1), optax.sgd(1.0))
    >>> params = {"block": {"attention": {"kernel": jnp.ones(1)}, "mlp": jnp.ones(1)}, "head": jnp.ones(1)}
    >>> energies = {"block": {"attention": {"energy": (jnp.asarray(5.0),)}}}
    >>> updates, _ = tx.update(params, tx.init(params), params, energies=energies)
    >>> [round(float(u[0]), 3) for u in jax.tree.leaves(updates)]
    [-1.462, -1.462, -1.0]
    """
    if placement not in PLACEMENTS:
        raise unknown("placement of attention_informed", placement, PLACEMENTS)
    if form not in FORMS:
        raise unknown("form of attention_informed", form, FORMS)
    for name, value, holds, allowed in (
        ("energy_scale", energy_scale, 0 <= energy_scale < float("inf"), "finite and not negative"),
        ("mix", mix, 0 <= mix <= 1, "between 0 and 1"),
        ("gamma", gamma, 0 <= gamma < float("inf"), "finite and not negative"),
    ):
        if not holds:
            raise UserError(f"{name}={value} of attention_informed is out of range: it must be {allowed}")
    unscaled = mix if placement == "update" else 0.0

    def scaled(energy: Array, update: Array) -> Array:
        factor = 1.0 + jnp.tanh(energy_scale * energy)
        return update * _like(unscaled + (1.0 - unscaled) * factor, update)

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def published(updates, state, params=None, *, energies=None, **extra):
        del params, extra
        of_path = _of_path(energies)

        def of_parameter(path: tuple, update: Array) -> Array:
            energy = of_path(_names(path))
            return update if energy is None else scaled(energy, update)

        return jax.tree.map_with_path(of_parameter, updates), state

    def paper(updates, state, params=None, *, energies=None, attention_gradients=None, **extra):
        del params, extra
        of_path = _of_path(energies)
        gradients = {_names(path): x for path, x in jax.tree.leaves_with_path(attention_gradients)}
        if not gradients:
            raise UserError(
                "form='paper' of attention_informed needs a value projection in an attention of one part, and no layer "
                "has it: use another mechanism, such as softmax or natural, or form='published'"
            )

        def of_parameter(path: tuple, update: Array) -> Array:
            name = _names(path)
            energy = of_path(name)
            if energy is None or name not in gradients:
                return update
            share = _like(jax.nn.sigmoid(gamma * energy), update)
            return share * update + (1 - share) * gradients[name].astype(update.dtype)

        return jax.tree.map_with_path(of_parameter, updates), state

    return optax.GradientTransformationExtraArgs(init, published if form == "published" else paper)


def mean_energy(energies: PyTree) -> Float[Array, ""]:
    """The mean over layers of a collection of energies."""
    return jnp.mean(jnp.concatenate([jnp.ravel(energy) for energy in jax.tree.leaves(energies)]))


def _of_path(energies: PyTree) -> Callable[[Path], Array | None]:
    """From a parameter's path to its energy, or None."""
    found: dict[Path, list[Array]] = defaultdict(list)
    for path, energy in jax.tree.leaves_with_path(energies):
        found[_names(path)[:-2]].append(energy)  # block / module / "energy"
    if not found:
        raise UserError(
            "attention_informed needs energies, and no layer of the model reports any: use a mechanism that scores "
            "pairs, such as softmax or natural"
        )
    # A module that is called several times sows as many energies.
    means = {block: sum(values) / len(values) for block, values in found.items()}

    def of_path(path: Path) -> Array | None:
        blocks = (path[:length] for length in range(len(path), -1, -1))
        return next((means[block] for block in blocks if block in means), None)

    return of_path


def _names(path: tuple) -> Path:
    """The keys of mappings in a path: sown values lie in tuples besides."""
    return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))


def _like(values: Float[Array, "..."], update: Array) -> Array:
    """One value for all of the update, or one a layer where layers are stacked (`nn.scan`), in its dtype."""
    values = jnp.asarray(values, update.dtype)
    return values.reshape(values.shape + (1,) * (update.ndim - values.ndim))
