"""Adaptive span with periodic masking on enwik8: heads learn how far back to look, and which distances to leave out.

Source: github.com/Lookatator/Adaptive-nanoGPT, commit 0495ddd, `config/train_enwik8.py`; adaptive span itself is of
Sukhbaatar et al. 2019 (configs/adaptive_span_enwik8.py).

python -m jattn data get enwik8
python train.py --config=configs/adaptive_enwik8.py
python eval.py --workdir=runs/adaptive_enwik8

The arms are span_periodic (the source's), span (without the triangle wave) and off (softmax attention). All of them,
five seeds each:
python -m jattn compare configs/adaptive_enwik8.py --axis arg=off,span,span_periodic --seeds 5

Reported: nothing; the repository has no log and names no number. Its measure is bits per character of the test split
in windows of 512 tokens, none of which overlap: what eval.py prints. Measured here: not run yet.

The default counts bytes, 90, 5 and 5 million of them, as all published results on enwik8 do. With `:as_published`
(`:span,as_published`) tokens are the characters of the decoded text, whose bits per character are another number, and
activations are bfloat16. Not as released in either: there a window begins anywhere, here an epoch sees each token once.

`:smoke` reads any text from --config.data.path in place of enwik8, whose size and checksum are checked.
"""

from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

SPAN = "max_span=512, softness=32, span_reg=4e-6"
ARMS = {
    "span_periodic": AttentionConfig("adaptive_span", f"{SPAN}, periodic=True, period_min=2, period_max=8"),
    "span": AttentionConfig("adaptive_span", SPAN),
    "off": AttentionConfig("softmax"),
}


def get_config(arg: str = "") -> Config:
    chosen = choose(
        arg,
        "configs/adaptive_enwik8.py",
        {"attention": tuple(ARMS), "version": ("", "as_published"), "size": ("", "smoke")},
    )
    arm = ARMS[chosen["attention"]]
    config = Config(
        steps=150_000,
        model=ModelConfig(
            name="language_model",
            width=512,
            depth=12,
            num_heads=8,
            norm_epsilon=1e-5,
            use_bias=False,
            norm_bias=False,
            positions="learned_every_layer",
            tie_embeddings=True,
            initialization="gpt2",
            dropout_rate=0.2,
            attention_dropout_rate=0.2,
            attention=AttentionConfig(arm.name, arm.options),
        ),
        data=DataConfig(name="enwik8", source="folder", options="sequence_length=512", batch_size=64),
        optim=OptimConfig(
            learning_rate=1e-3,
            warmup_steps=100,
            final_fraction=0.1,
            beta2=0.99,
            weight_decay=0.1,
            decay_scope="kernels_and_embeddings",
            clip_norm=1.0,
        ),
        validation=ValidationConfig(every=1000),
        logging=LoggingConfig(every=1000),
    )
    if chosen["version"] == "as_published":
        config.data.tokenizer = "characters"
        config.model.dtype = "bfloat16"
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads = 16, 1, 2
        config.model.attention.options = arm.options.replace(SPAN, "max_span=8, softness=4")
        config.data.name, config.data.options, config.data.batch_size = "text", "sequence_length=8", 8
        config.optim.warmup_steps = 2
        config.validation.every = 6
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
