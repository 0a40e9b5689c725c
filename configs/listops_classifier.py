"""Text classifier on ListOps: the value of nested MIN, MAX, MED and SM (Long Range Arena's grammar, shorter).

python train.py --config=configs/listops_classifier.py
python eval.py --workdir=runs/listops_classifier

With another mechanism: --config=configs/listops_classifier.py:neural (any key of jattn.attention.MECHANISMS).

Three to six minutes on two CPU cores. Test accuracy 57.7 % (ten classes; 2,000 expressions), still rising.
"""

from jattn.attention import MECHANISMS
from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

OPTIONS = {
    "neural": "projection_dim=4",
    "adaptive_span": "max_span=48, softness=8",
    "kvt": "topk=8",
    "local": "window_size=8",
    "neighborhood": "kernel_size=17",
    "sparse": "mode='local', context=8",
}
"""Of each mechanism, for up to 48 tokens in heads of 16 features; the others take their defaults."""

ARGUMENTS = {"mechanism": tuple(MECHANISMS), "size": ("", "smoke")}


def get_config(arg: str = "") -> Config:
    chosen = choose(arg, "configs/listops_classifier.py", ARGUMENTS)
    config = Config(
        steps=1500,
        model=ModelConfig(
            name="text_classifier", width=64, depth=4, num_heads=4, positions="rotary", activation="relu"
        ),
        data=DataConfig(name="listops", options="max_depth=3, max_length=48", batch_size=64),
        optim=OptimConfig(name="muon", learning_rate=1e-2, warmup_steps=100, weight_decay=0.05, clip_norm=1.0),
        validation=ValidationConfig(every=500),
        logging=LoggingConfig(every=100),
    )
    config.model.attention = AttentionConfig(chosen["mechanism"], OPTIONS.get(chosen["mechanism"], ""))
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads = 16, 1, 2
        config.data.options = "max_length=24, train_size=256, valid_size=32, test_size=32"
        config.data.batch_size = 16
        config.optim.warmup_steps = 2
        config.validation = ValidationConfig(every=6)
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
