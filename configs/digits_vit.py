"""Vision Transformer on handwritten digits (scikit-learn's 1,797 pictures of 8x8 pixels).

python train.py --config=configs/digits_vit.py
python eval.py --workdir=runs/digits_vit

With another mechanism: --config=configs/digits_vit.py:neural (any key of jattn.attention.MECHANISMS). Several:
python -m jattn compare configs/digits_vit.py --axis arg=softmax,neural,local --seeds 8

Half a minute to a minute on two CPU cores. Test accuracy 99.2, 97.8, 98.3, 97.8 % with seeds 0 to 3 (359 pictures).
"""

from jattn.attention import MECHANISMS
from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

OPTIONS = {
    "neural": "projection_dim=4",
    "adaptive_span": "max_span=16, softness=4",
    "convnn": "K=4",
    "kvt": "topk=8",
    "local": "window_size=4",
    "neighborhood": "kernel_size=7",
    "sparse": "mode='local', context=8",
    "conv1d": "kernel_size=3",
    "branching_conv": "K=4, kernel_size=3",
    "branching_attention": "K=4",
}
"""Of each mechanism, for 16 patches in heads of 16 features; the others take their defaults."""

ARGUMENTS = {"mechanism": tuple(MECHANISMS), "size": ("", "smoke")}


def get_config(arg: str = "") -> Config:
    chosen = choose(arg, "configs/digits_vit.py", ARGUMENTS)
    config = Config(
        steps=1000,
        model=ModelConfig(name="vision_transformer", width=64, depth=4, num_heads=4, patch_size=2, activation="relu"),
        data=DataConfig(name="digits", batch_size=64),
        # Muon needs a third of the steps that AdamW needs here.
        optim=OptimConfig(name="muon", learning_rate=1e-2, warmup_steps=100, weight_decay=0.05, clip_norm=1.0),
        validation=ValidationConfig(every=200),
        logging=LoggingConfig(every=50),
    )
    config.model.attention = AttentionConfig(chosen["mechanism"], OPTIONS.get(chosen["mechanism"], ""))
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads = 16, 1, 2
        config.data.batch_size = 16
        config.optim.warmup_steps = 2
        config.validation = ValidationConfig(every=6, batches=2)
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
