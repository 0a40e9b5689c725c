"""Vision Transformer on CIFAR at 224 pixels, the first layer neural attention or softmax attention like the others.

Source: DiGiugno and Mahmood 2025, "Neural Attention: A Novel Mechanism for Enhanced Expressive Power in Transformer
Models", arXiv:2502.17206; github.com/awayfromzel/neural-attention-research at f6572f5 (vision_neural_attention and
vision_standard_attention).

python train.py --config=configs/neural_cifar.py:neural --config.data.path=FOLDER
python eval.py --workdir=runs/neural_cifar-neural

Both arms with five seeds: python -m jattn compare configs/neural_cifar.py --axis arg=neural,softmax --seeds 5 \\
  --workdir=runs/neural_cifar     (configs/neural_cifar.py:cifar100 for CIFAR-100)

Words after the colon, at most one of each line, joined by commas:
  neural, softmax
  cifar10, cifar100
  as_published
  smoke (a tiny model on any pictures: --config.data.path=FOLDER with FOLDER/class/*.png)

Reported: "more than 4 percentage points" higher accuracy with neural attention on CIFAR-10 and CIFAR-100 (a later
version of the paper); neither the repository nor what we read of the paper has an absolute figure or a log.

Both keep the source's sizes: 12 post-norm layers of 768 features and 8 heads, patches of 8 (785 tokens), d' = 96 // 32
= 3, AdamW in batches of one picture for 350 epochs, that is 17.5 million steps; larger batches, with a larger
optim.learning_rate and a smaller optim.step_size, are untried. The default holds out 5,000 training pictures to choose
the best epoch, has sinusoidal positions whose wavelengths reach 10,000 (released: its square, so that half of them
hardly vary), and halves all rates after five epochs (released: those of the decayed parameters).

`as_published` has the released positions and sum of embeddings (1 + sqrt d) x + p, PyTorch's initial parameters, weight
decay and the halved learning rate on the weights of dense layers only, all 50,000 pictures to train on, and chooses the
best epoch on the test set. What it does not reproduce: dropout of embeddings acts on the whole sum (in the source on
sqrt d x + p), colours are changed in a fixed order, rotation is bilinear (there to the nearest pixel).

Not run yet.
"""

from jattn.config import (
    AttentionConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    LoggingConfig,
    ModelConfig,
    OptimConfig,
    ValidationConfig,
)
from jattn.config_arguments import choose

GROUPS = {
    "first layer": ("neural", "softmax"),
    "data": ("cifar10", "cifar100"),
    "variant": ("", "as_published"),
    "size": ("", "smoke"),
}

WIDTH = 768
HALVED_AFTER = 5  # epochs
JITTER = "color_jitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)"
AUGMENTATION = f"random_resized_crop(scale=(0.05, 1)), flip, {JITTER}, rotation(degrees=10)"


def get_config(arg: str = "") -> Config:
    chosen = choose(arg, "configs/neural_cifar.py", GROUPS)
    as_published = chosen["variant"] == "as_published"
    train_size = 50_000 if as_published else 45_000
    options = "use_bias=False"
    neural = f"0:neural({options}, as_published=True)" if as_published else f"0:neural({options})"
    config = Config(
        epochs=350.0,
        model=ModelConfig(
            name="vision_transformer",
            width=WIDTH,
            depth=12,
            num_heads=8,
            mlp_dim=1024,
            activation="relu",
            norm_position="post",
            norm_epsilon=1e-5,
            final_norm=True,
            positions="sinusoidal",
            embedding_scale=WIDTH**0.5,
            pooling="class_token",
            patch_size=8,
            dropout_rate=0.1,
            mlp_dropout_rate=0.1,
            attention=AttentionConfig("softmax", options),
            layers=neural if chosen["first layer"] == "neural" else "",
        ),
        data=DataConfig(
            name=chosen["data"],
            source="folder",
            batch_size=1,
            eval_batch_size=50,
            options=data_options(0 if as_published else 5000),
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-5,
            schedule="step",
            step_size=HALVED_AFTER * train_size,
            step_gamma=0.5,
            step_limit=1,
            beta2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        checkpoint=CheckpointConfig(best_metric="valid/accuracy", best_mode="max"),
        logging=LoggingConfig(every=1000),
    )
    if as_published:
        config.model.initialization = "pytorch"
        config.model.positions = "sinusoidal_neural"
        config.model.embedding_scale = 1 + WIDTH**0.5
        config.optim.decay_scope = config.optim.schedule_scope = "linear"
        config.validation.split = "test"
    if chosen["size"] == "smoke":
        for_smoke(config)
    return config


def data_options(valid_size: int) -> str:
    """Pictures of 224 pixels in -1 to 1."""
    half = (0.5, 0.5, 0.5)
    return f"image_size=224, valid_size={valid_size}, mean={half}, std={half}, augmentation={AUGMENTATION!r}"


def for_smoke(config: Config) -> None:
    """Seconds, on a folder of pictures in place of CIFAR."""
    config.epochs, config.steps = None, 6
    config.model.width, config.model.depth, config.model.num_heads, config.model.mlp_dim = 128, 1, 2, 32
    config.data.name, config.data.batch_size, config.data.eval_batch_size = "image_folder", 4, None
    config.data.options = f"image_size=16, stored_size=16, augmentation={AUGMENTATION!r}"
    config.optim.step_size = 3
    config.validation = ValidationConfig(split=config.validation.split, every=3, batches=2)
    config.logging = LoggingConfig(every=2, tensorboard=False, attention_every=None)
