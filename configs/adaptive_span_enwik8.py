"""Adaptive attention span on enwik8, with the settings of the paper where this library has them.

Source: Sukhbaatar et al. 2019, arXiv:1905.07799; github.com/facebookresearch/adaptive-span, `experiments/enwik8.sh` and
`enwik8_large.sh`.

python -m jattn data get enwik8
python train.py --config=configs/adaptive_span_enwik8.py
python eval.py --workdir=runs/adaptive_span_enwik8

Larger: --config=configs/adaptive_span_enwik8.py:large. With spans and without, five seeds each:
python -m jattn compare configs/adaptive_span_enwik8.py --axis arg=off,span --seeds 5

Reported: 1.02 bits per byte of the test text for 12 layers (38M parameters), 0.98 for 24 (209M). Measured here: not run
yet.

As in the source: sizes, spans of up to 8,192 tokens that begin at (nearly) nothing, ramp 32, loss 5e-7 times the span,
dropout of attention weights and of the mlp's hidden features, post-norm, ReLU, Adagrad with a warmup of 32,000 steps,
gradients clipped parameter by parameter, 32,768 tokens a step. Otherwise than in the source, which therefore has no
`:as_published` here:
* it reads 64 texts in blocks of 512 tokens and remembers up to 8,192 earlier ones of each, without their gradients;
  here a window is 8,192 tokens long, four of them a step, and tokens at its beginning have less to look back on;
* distances are embedded, a vector for each that is added to all keys (524,288 parameters); here positions are rotary;
* a span is a number that is clipped to its bounds after each update; here it is the sigmoid of one, and a token can
  always read itself, which it cannot there.
`:large` ends after the 150,000 steps of the first run of `enwik8_large.sh`, without the 20,000 at a tenth of the rate.

`:smoke` reads any text from --config.data.path in place of enwik8, whose size and checksum are checked.
"""

from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose

SPAN = "max_span=8192, softness=32, span_init=0.001, span_reg=5e-7"


def get_config(arg: str = "") -> Config:
    chosen = choose(
        arg, "configs/adaptive_span_enwik8.py", {"attention": ("span", "off"), "size": ("", "large", "smoke")}
    )
    adaptive = chosen["attention"] == "span"
    config = Config(
        steps=600_000,
        model=ModelConfig(
            name="language_model",
            width=512,
            depth=12,
            num_heads=8,
            mlp_dim=2048,
            activation="relu",
            norm_position="post",
            norm_epsilon=1e-5,
            positions="rotary",
            initialization="pytorch",
            attention_dropout_rate=0.3,
            mlp_dropout_rate=0.3,
            attention=AttentionConfig(
                "adaptive_span" if adaptive else "softmax", f"use_bias=False, {SPAN}" if adaptive else "use_bias=False"
            ),
        ),
        data=DataConfig(name="enwik8", source="folder", options="sequence_length=8192", batch_size=4),
        optim=OptimConfig(
            name="adagrad",
            learning_rate=0.07,
            schedule="constant",
            warmup_steps=32_000,
            epsilon=1e-10,
            clip_each=0.03,
        ),
        validation=ValidationConfig(every=1000),
        logging=LoggingConfig(every=1000),
    )
    if chosen["size"] == "large":
        config.steps = 150_000
        config.model.width, config.model.depth, config.model.mlp_dim = 768, 24, 4096
        config.model.attention_dropout_rate = config.model.mlp_dropout_rate = 0.4
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads, config.model.mlp_dim = 16, 1, 2, 32
        config.model.attention.options = config.model.attention.options.replace(SPAN, "max_span=8, softness=4")
        config.data.name, config.data.options, config.data.batch_size = "text", "sequence_length=8", 8
        config.optim.warmup_steps = 2
        config.validation.every = 6
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
