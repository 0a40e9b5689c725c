"""Optimised, efficient and super attention on IMDB: which projections does attention need?

Source: Hosseini et al. 2024, arXiv:2403.01643; github.com/NMesaC/pay-better-attention-pytorch-keras, commit bf1c585,
`pytorch_imdb_transformer_example.py`, and `keras_imdb_transformer_experiment.py` for `:keras`.

python -m jattn data get imdb
python train.py --config=configs/reduced_imdb.py:super
python eval.py --workdir=runs/reduced_imdb-super

The arms are sdpa (the baseline), optimised, efficient, super (one W_A for all heads) and super_per_head. All of them,
five seeds each; the tables have mean test accuracy (with --measure=loss the loss), parameters, and times:
python -m jattn compare configs/reduced_imdb.py --axis arg=sdpa,optimised,efficient,super,super_per_head --seeds 5

Reported in the log of its PyTorch notebook (commit 3b2ff81; a T4, five runs each, W_A shared; means of five):

| arm | test accuracy | test loss | attention parameters (counted) |
|---|---|---|---|
| sdpa | 72.8 % | 0.683 | 4,224 |
| optimised | 72.5 % | 0.596 | 3,168 |
| efficient | 72.8 % | 0.576 | 2,112 |
| super | 74.1 % | 0.572 | 3,168 |

on 6,000 reviews, of which the first 31 words are read, after 10 epochs on 40,000; the checkpoint is the most accurate
of ten on 4,000 others. Single runs of one arm differ by up to 1.6 points, and all four arms have the same defects, so
the table is one of attention that normalises over the queries. Measured here: not run yet.

With `:as_published` as released, which differs from the default in this:
* weights are normalised over the queries; otherwise over the keys;
* padding is attended to and pooled; otherwise left out;
* a review is called positive where the logit exceeds 0.5; otherwise 0 (Keras has a probability, and no such error);
* the vocabulary is that of all reviews, unknown words are padding; otherwise of the reviews to train on (PyTorch only).

`:keras` is its other version: the 25,000 and 25,000 reviews of the published division, 2,500 of the former held out
(there the last, here by a hash), of each the *last* 32 words, filled up in front; W_A without bias; Keras' initial
values. Its words are cut otherwise than ours. (Its count of parameters has a bias of 32 for W_A that is never used.)

`:listops` has the same model on ListOps (docs/data.md), ten classes, which needs no files:
python train.py --config=configs/reduced_imdb.py:super,listops
Measured, one seed each, after 3,000 steps: 41.5 % of 2,000 expressions (sdpa), 40.7 (optimised), 39.2 (efficient), 38.7
(super), 38.0 (super_per_head); guessing gives 10 %. The standard error of each is 1.1 points: one seed ranks no
neighbours. A run takes less than a minute on one CPU core.

`:smoke` reads reviews from --config.data.path, at least 200 of them.
"""

from jattn.config import (
    AttentionConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    LoggingConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ValidationConfig,
)
from jattn.config_arguments import choose

ARMS = {
    "sdpa": ("softmax", ""),
    "optimised": ("optimised", ""),
    "efficient": ("efficient", ""),
    "super": ("super", "shared=True"),
    "super_per_head": ("super", "shared=False"),
}


def get_config(arg: str = "") -> Config:
    chosen = choose(
        arg,
        "configs/reduced_imdb.py",
        {
            "attention": tuple(ARMS),
            "framework": ("", "keras"),
            "data": ("", "listops"),
            "version": ("", "as_published"),
            "size": ("", "smoke"),
        },
    )
    released, keras = chosen["version"] == "as_published", chosen["framework"] == "keras"
    smoke = chosen["size"] == "smoke"
    name, options = ARMS[chosen["attention"]]
    config = Config(
        epochs=10.0,
        model=ModelConfig(
            name="text_classifier",
            width=32,
            depth=1,
            num_heads=4,
            mlp_dim=32,
            activation="relu",
            norm_position="post",
            norm_epsilon=1e-6,
            positions="learned",
            head_hidden_dim=6,
            initialization="keras" if keras else "pay_better_attention",
            dropout_rate=0.1,
            embedding_dropout_rate=0.0,
            head_dropout_rate=0.1,
            attention=AttentionConfig(name, options),
        ),
        data=DataConfig(name="imdb", source="folder", batch_size=64, eval_batch_size=500),
        loss=LossConfig(name="binary_cross_entropy"),
        optim=OptimConfig(name="adam", schedule="constant", epsilon=1e-7 if keras else 1e-8),
        checkpoint=CheckpointConfig(best_metric="valid/accuracy", best_mode="max"),
        logging=LoggingConfig(every=100),
    )
    if keras:
        config.data.options = f"division='standard', valid_size={20 if smoke else 2500}, keep='last'"
        if name == "super":
            config.model.attention.options += ", token_bias=False"
    elif smoke:
        config.data.options = "train_size=150, valid_size=20"
    if released:
        over_queries = "softmax_axis='queries', as_published=True"
        config.model.attention.options = _joined(config.model.attention.options, over_queries)
        config.model.padding_token = None
        if not keras:
            config.loss.threshold = 0.5
            config.data.tokenizer = "words(vocab_size=19999)"
            config.data.options = _joined(config.data.options, "as_published=True")
    if chosen["data"] == "listops":
        config.epochs, config.steps = None, 3000
        config.data = DataConfig(name="listops", options="max_depth=3, max_length=32", batch_size=64)
        config.loss = LossConfig()
        config.validation = ValidationConfig(every=500)
    if smoke:
        config.epochs, config.steps = None, 12
        config.model.width, config.model.num_heads = 16, 2
        config.data.batch_size = config.data.eval_batch_size = 16
        config.validation = ValidationConfig(every=6)
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config


def _joined(*options: str) -> str:
    """Option strings as one."""
    return ", ".join(filter(None, options))
