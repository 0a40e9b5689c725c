"""A model and a data set that are small, made up, and use every seam between models, data and the trainer."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jattn.data.dataset import Dataset
from jattn.task import Task
from jattn.types import DTypeLike

FEATURES, HEADS, HEAD_DIM, WIDTH, HIDDEN, CLASSES = 5, 2, 3, 6, 8, 7


def _named(names, init=None):
    return nn.with_logical_partitioning(init or nn.initializers.lecun_normal(), names)


class Heads(nn.Module):
    """A projection to heads and back. Sows the mean magnitude of its heads into `energies`."""

    dropout_rate: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x, deterministic):
        bias = _named(("heads", "head_dim"), nn.initializers.zeros)
        kernel = _named(("embed", "heads", "head_dim"))
        heads = nn.DenseGeneral((HEADS, HEAD_DIM), kernel_init=kernel, bias_init=bias, dtype=self.dtype, name="query")(
            x
        )
        self.sow("energies", "energy", jnp.mean(jnp.abs(heads.astype(jnp.float32))))
        heads = nn.Dropout(self.dropout_rate)(jnp.tanh(heads), deterministic=deterministic)
        kernel = _named(("heads", "head_dim", "embed"))
        return nn.DenseGeneral(WIDTH, (-2, -1), kernel_init=kernel, dtype=self.dtype, name="out")(heads)


class Model(nn.Module):
    """Floats (B, 5) -> logits (B, classes). `regularizer` times the squares of its `span` is sown into `losses`."""

    classes: int = CLASSES
    dropout_rate: float = 0.0
    regularizer: float = 0.0
    root: bool = False
    dtype: DTypeLike | None = None
    on_trace: Callable[[], None] | None = None

    @nn.compact
    def __call__(self, x, *, deterministic=True):
        if self.on_trace is not None:
            self.on_trace()
        span = self.param("span", _named((None,), nn.initializers.ones), (2,))
        if self.regularizer:
            self.sow("losses", "span", self.regularizer * jnp.sum(jnp.square(span)))
        x = Heads(self.dropout_rate, self.dtype, name="attention")(x, deterministic)
        x = nn.Dense(HIDDEN, kernel_init=_named(("embed", "mlp")), dtype=self.dtype, name="hidden")(x)
        # The derivative of a root is infinite at 0.
        x = jnp.tanh(x) * (jnp.sum(jnp.sqrt(span)) if self.root else jnp.sum(span))
        head = nn.Dense(self.classes, kernel_init=_named(("mlp", "vocab")), dtype=self.dtype, name="head")
        return head(x)


@dataclasses.dataclass(frozen=True)
class Data(Dataset):
    """160 examples of 5 bytes with weights 0 to 2; augmentation adds noise."""

    classes: int = CLASSES

    @property
    def task(self):
        return Task("image", num_classes=self.classes, image_shape=(FEATURES, 1, 1))

    def size(self, split):
        return 160

    def description(self):
        return "made up"

    def examples(self, split, index, epoch):
        rng = np.random.default_rng(0)
        inputs = rng.integers(0, 256, (160, FEATURES)).astype(np.uint8)
        targets = rng.integers(0, self.classes, 160).astype(np.int32)
        weight = rng.integers(0, 3, 160).astype(np.float32)
        return {"inputs": inputs[index], "targets": targets[index], "weight": weight[index]}

    def prepare(self, inputs, ids, key):
        x = jnp.asarray(inputs, jnp.float32) / 128 - 1
        if key is None:
            return x
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (FEATURES,)))
        return x + 0.3 * noise(ids)


@dataclasses.dataclass(frozen=True)
class Mixed(Data):
    """Each example is mixed with another one."""

    def mix(self, inputs, others, ids, key):
        own = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids)
        return own[:, None] * inputs + (1 - own[:, None]) * others, own


def batch(n, size=16, data=None):
    """Batch n of the data in order."""
    index = (n * size + np.arange(size)) % 160
    examples = (data or Data()).examples("train", index, np.zeros_like(index))
    return examples | {"example_id": index.astype(np.int32)}
