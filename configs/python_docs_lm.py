"""Byte-level language model of Python's language reference (337 KB of text to train on, 19 KB to test).

python train.py --config=configs/python_docs_lm.py
python eval.py --workdir=runs/python_docs_lm

With another mechanism: --config=configs/python_docs_lm.py:neural (any key of jattn.attention.MECHANISMS).

Three to seven minutes on two CPU cores. Test bits per byte 1.63; with --config.steps=300, one to two minutes, 1.86.
(`xz -9e` needs 2.42 for the same bytes, 1.78 when it has seen the training text.)
"""

from jattn.attention import MECHANISMS
from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

OPTIONS = {
    "neural": "projection_dim=4",
    "adaptive_span": "max_span=256",
    "kvt": "topk=32",
    "local": "window_size=32",
    "neighborhood": "kernel_size=33",
    "sparse": "mode='fixed', context=16",
}
"""Of each mechanism, for 256 tokens in heads of 32 features; the others take their defaults."""

ARGUMENTS = {"mechanism": tuple(MECHANISMS), "size": ("", "smoke")}


def get_config(arg: str = "") -> Config:
    chosen = choose(arg, "configs/python_docs_lm.py", ARGUMENTS)
    config = Config(
        steps=900,
        model=ModelConfig(
            name="language_model",
            width=128,
            depth=4,
            num_heads=4,
            positions="rotary",
            use_bias=False,
            activation="relu",  # exact gelu would be a quarter of the step on a CPU, see docs/findings.md
        ),
        data=DataConfig(name="python_docs", options="sequence_length=256", batch_size=8),
        optim=OptimConfig(
            name="muon", learning_rate=2e-2, warmup_steps=25, beta2=0.99, weight_decay=0.1, clip_norm=1.0
        ),
        validation=ValidationConfig(every=150),
        logging=LoggingConfig(every=50),
    )
    config.model.attention = AttentionConfig(chosen["mechanism"], OPTIONS.get(chosen["mechanism"], ""))
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads = 16, 1, 2
        config.data.options, config.data.batch_size = "sequence_length=32", 8
        config.optim.warmup_steps = 2
        config.validation = ValidationConfig(every=6, batches=2)
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
