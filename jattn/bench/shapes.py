"""Models to measure whole training steps with that need no data set, and their PyTorch peers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jattn.bench import peers
from jattn.bench.peers import NoPeer, Sizes
from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.data.dataset import Batch, Dataset
from jattn.data.streams import stream
from jattn.models.transformer import Transformer
from jattn.task import Task


@dataclasses.dataclass(frozen=True)
class RandomData(Dataset):
    """Random inputs and targets of any task: for the time of a step, not for what it learns."""

    of: Task

    @property
    def task(self) -> Task:
        """The one given."""
        return self.of

    def size(self, split: str) -> int:
        """As many as a short run needs."""
        self.check_split(split)
        return 1024

    def examples(self, split: str, index: np.ndarray, epoch: np.ndarray) -> Batch:
        """Pictures of normal pixels and a class each, or tokens and the tokens after them."""
        rng, count = np.random.Generator(stream("bench", int(index[0]))), len(index)
        if self.of.kind == "image":
            inputs = rng.standard_normal((count, *self.of.image_shape), np.float32)
            return self._weighted(inputs, rng.integers(0, self.of.num_classes, count))
        tokens = rng.integers(0, self.of.vocab_size, (count, self.of.length + 1))
        return self._weighted(tokens[:, :-1].astype(np.int32), tokens[:, 1:])

    def description(self) -> str:
        """One line for the log."""
        return f"random data of kind {self.of.kind}"

    @staticmethod
    def _weighted(inputs: np.ndarray, targets: np.ndarray) -> Batch:
        return {
            "inputs": inputs,
            "targets": targets.astype(np.int32),
            "weight": np.ones(targets.shape, np.float32),
        }


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model, what it is trained on, and the released model that it is compared with.

    config: makes the config; its `data` counts for the batch size only.
    peer: (package of peers, config, our model) -> its PyTorch module, or raises NoPeer.
    """

    config: Callable[[], Config]
    task: Task
    peer: Callable[[Any, Config, Transformer], Any]


def _config(model: ModelConfig, batch_size: int, learning_rate: float, weight_decay: float) -> Config:
    return Config(
        steps=1000,
        model=model,
        data=DataConfig(batch_size=batch_size, augment=False),
        optim=OptimConfig(name="adamw", learning_rate=learning_rate, weight_decay=weight_decay, schedule="constant"),
        validation=ValidationConfig(every=1000, batches=1),
        logging=LoggingConfig(every=100, tensorboard=False),
    )


def _vit_tiny() -> Config:
    """The ConvNN repository's default: no final norm, dropout 0.1 but on attention weights, where its layers differ."""
    model = ModelConfig(
        name="vision_transformer",
        width=192,
        depth=12,
        num_heads=3,
        mlp_dim=768,
        patch_size=16,
        norm_epsilon=1e-5,
        embedding_norm=True,
        final_norm=False,
        positions="sinusoidal",
        pooling="class_token",
        dropout_rate=0.1,
        embedding_dropout_rate=0.0,
        mlp_dropout_rate=0.1,
    )
    return _config(model, batch_size=8, learning_rate=5e-4, weight_decay=5e-2)


def _vit_tiny_peer(loaded: Any, config: Config, model: Transformer) -> Any:
    layers, task = set(model.mechanisms()), SHAPES["vit_tiny"].task
    if len(layers) > 1 or config.model.width != model.width:
        raise NoPeer("the released ViT has one kind of attention in all layers")
    (layer,) = layers
    module = layer.module(num_heads=model.num_heads)
    length = (task.image_shape[0] // model.patch_size) ** 2 + 1
    sizes = Sizes(model.width, length, module.head_size(model.width))
    return loaded.ViT(
        task.image_shape[0],
        model.patch_size,
        model.width,
        config.model.mlp_dim,
        model.depth,
        task.num_classes,
        lambda: peers.released(loaded, module, sizes).module,
        config.model.dropout_rate,
    )


def _language_model() -> Config:
    """The released neural language model's block and sizes, with dot products in every layer."""
    model = ModelConfig(
        name="language_model",
        width=512,
        depth=8,
        num_heads=8,
        mlp_dim=1024,
        activation="relu",
        norm_position="post",
        norm_epsilon=1e-5,
        final_norm=True,
        positions="sinusoidal_neural",
        embedding_scale=2 + 512**0.5,
        dropout_rate=0.1,
        mlp_dropout_rate=0.1,
        attention=AttentionConfig("softmax", "use_bias=False"),
    )
    return _config(model, batch_size=1, learning_rate=3e-4, weight_decay=0.1)


def _language_model_peer(loaded: Any, config: Config, model: Transformer) -> Any:
    names = [layer.name for layer in model.mechanisms()]
    if names != ["neural"] + ["softmax"] * (model.depth - 1):
        raise NoPeer('the released language model is neural in layer 0 alone: --set model.layers="0:neural"')
    return loaded.SimpleTransformer(
        model.width,
        model.depth,
        model.vocab_size,
        model.num_heads,
        max_seq_len=model.max_length,
        dim_linear_block=config.model.mlp_dim,
        dropout=config.model.dropout_rate,
    )


SHAPES: dict[str, Shape] = {
    "vit_tiny": Shape(_vit_tiny, Task(kind="image", num_classes=100, image_shape=(224, 224, 3)), _vit_tiny_peer),
    "language_model": Shape(_language_model, Task(kind="language", vocab_size=256, length=1024), _language_model_peer),
}
"""ViT-Tiny/16 at 224 pixels, batch 8; 8 layers of 512 features over 1,024 bytes, batch 1."""
