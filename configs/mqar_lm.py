"""Language model on multi-query associative recall (MQAR, as in the Zoology paper, smaller).

python train.py --config=configs/mqar_lm.py
python eval.py --workdir=runs/mqar_lm

With another mechanism: --config=configs/mqar_lm.py:neural (any key of jattn.attention.MECHANISMS).

About a minute on two CPU cores. Test accuracy on the answers 97.8 %; it jumps from 16 % after about 500 steps.
"""

from jattn.attention import MECHANISMS
from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

OPTIONS = {
    "neural": "projection_dim=8",
    "adaptive_span": "max_span=64, softness=8",
    "kvt": "topk=16",
    "local": "window_size=16",
    "neighborhood": "kernel_size=17",
    "sparse": "mode='fixed', context=8",
}
"""Of each mechanism, for 64 tokens and one head of 64 features; the others take their defaults."""

ARGUMENTS = {"mechanism": tuple(MECHANISMS), "size": ("", "smoke")}


def get_config(arg: str = "") -> Config:
    chosen = choose(arg, "configs/mqar_lm.py", ARGUMENTS)
    config = Config(
        steps=1000,
        model=ModelConfig(
            name="language_model", width=64, depth=2, num_heads=1, positions="learned", activation="relu"
        ),
        data=DataConfig(name="mqar", options="sequence_length=64, num_pairs=8, vocab_size=256", batch_size=32),
        optim=OptimConfig(name="muon", learning_rate=1e-2, warmup_steps=100, weight_decay=0.1, clip_norm=1.0),
        validation=ValidationConfig(every=250),
        logging=LoggingConfig(every=50),
    )
    config.model.attention = AttentionConfig(chosen["mechanism"], OPTIONS.get(chosen["mechanism"], ""))
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width = 16
        config.data.options = (
            "sequence_length=16, num_pairs=2, vocab_size=32, train_size=256, valid_size=32, test_size=32"
        )
        config.data.batch_size = 16
        config.optim.warmup_steps = 2
        config.validation = ValidationConfig(every=6)
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
