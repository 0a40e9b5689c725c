"""Natural attention on WikiText-2: does an optimizer that reads the energies of attention help a small GPT-2?

Source: github.com/jeroaranda/naturalattention, commit d0fb925, `natural_attention_gpt2_training.ipynb`.

python -m jattn data get wikitext2
hf download openai-community/gpt2 tokenizer.json
python train.py --config=configs/natural_wikitext2.py
python eval.py --workdir=runs/natural_wikitext2

The baseline: --config=configs/natural_wikitext2.py:standard. Both, five seeds each:
python -m jattn compare configs/natural_wikitext2.py --axis arg=standard,natural --seeds 5

Reported: after 460 steps on the first 300 lines of the training text, loss of the last batch 3.087 nats for natural
attention and 3.953 for the standard model. That is no comparison: its natural model has no causal mask and sees the
tokens that it predicts, its labels are shifted twice, and it has no dropout where the standard model has.
Measured here: not run yet. (On another text, with a control for what is a mere change of learning rate:
docs/attention_informed.md.)

Here both arms see the same tokens in the same order, with the same mask, dropout and initial parameters, and differ in
the optimizer alone; the score is that of the validation text.

With `:as_published` (`:standard,as_published`) as released: 460 steps; the natural model is not causal, has exact GELU
in place of the tanh form, PyTorch's initial values in its blocks, no dropout in them, and energies of all pairs; both
predict the token after the next one (labels shifted twice); lines are cut off at 32 tokens and packed into rows filled
up with end-of-text tokens, which are predicted too (181 of them, the source says).

`:smoke` reads small files of WikiText's names from --config.data.path, with a BPE learned from them.
"""

from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose


def get_config(arg: str = "") -> Config:
    chosen = choose(
        arg,
        "configs/natural_wikitext2.py",
        {"attention": ("natural", "standard"), "version": ("", "as_published"), "size": ("", "smoke")},
    )
    config = Config(
        epochs=10.0,
        model=ModelConfig(
            name="language_model",
            width=64,
            depth=2,
            num_heads=2,
            activation="gelu_tanh",
            norm_epsilon=1e-5,
            positions="learned",
            tie_embeddings=True,
            initialization="gpt2",
            dropout_rate=0.1,
            attention_dropout_rate=0.1,
        ),
        data=DataConfig(
            name="wikitext2",
            source="folder",
            tokenizer="openai-community/gpt2",
            options="sequence_length=32, train_lines=300",
            batch_size=4,
            eval_batch_size=64,
        ),
        optim=OptimConfig(schedule="constant", weight_decay=0.01, decay_scope="all", clip_norm=1.0),
        validation=ValidationConfig(),
        logging=LoggingConfig(every=20),
    )
    if chosen["attention"] == "natural":
        config.model.attention = AttentionConfig("natural")
        config.optim.attention_informed = "gradient"
    if chosen["version"] == "as_published":
        config.steps, config.epochs = 460, None
        config.data.options += ", row_length=32, ahead=2"
        if chosen["attention"] == "natural":
            config.model.attention.options = "as_published=True"
            config.model.causal = False
            config.model.activation = "gelu"
            config.model.initialization = "natural_attention"
            config.model.dropout_rate, config.model.embedding_dropout_rate = 0.0, 0.1
            config.model.attention_dropout_rate = 0.0
    if chosen["size"] == "smoke":
        config.steps, config.epochs = 12, None
        config.model.width, config.model.depth = 16, 1
        config.data.tokenizer, config.data.options = "bpe(vocab_size=300)", "sequence_length=8, train_lines=30"
        config.validation = ValidationConfig(every=6)
        config.data.eval_batch_size = 8
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
