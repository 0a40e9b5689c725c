"""Neural attention on WikiText-103: a network scores the pairs of the first of eight layers, dot products the rest.

Source: DiGiugno & Mahmood 2025, arXiv:2502.17206; github.com/awayfromzel/neural-attention-research, commit f6572f5,
`nlp_neural_attention` and `nlp_standard_attention`.

hf download Salesforce/wikitext --repo-type dataset --include 'wikitext-103-v1/*'
hf download google-bert/bert-base-cased tokenizer.json
python train.py --config=configs/neural_wikitext103.py --config.data.source=huggingface
python eval.py --workdir=runs/neural_wikitext103 --stride=512

The baseline: --config=configs/neural_wikitext103.py:standard. Both, five seeds each:
python -m jattn compare configs/neural_wikitext103.py --axis arg=standard,neural --seeds 5

Reported: the perplexity of neural attention is "over 5 %" (first version of the paper) or "over 2 %" (later ones) lower
than that of standard attention; the repository has no absolute number and no log. Its conditions: 28,996 word pieces,
2,000,010 windows of 1,024 tokens, one at a time; perplexity as the exponential of the mean loss of windows that overlap
by half, so that most tokens are counted twice (`eval.py --stride=512 --average=windows`); and the best of the
checkpoints, every 10,000 steps, on the test text. Measured here: not run yet.

With `:as_published` (`:standard,as_published`) as released, which differs from the default in this:
* the checkpoint is chosen on the test split; otherwise on the validation split;
* the text is the table that pandas wrote, with its quotation marks;
* embeddings are multiplied by 2 + sqrt(512) in the neural model, as an addition in place doubles them, and by
  1 + sqrt(512) in the standard one; otherwise by the latter in both, so that the arms differ in the attention alone;
* sinusoids have exponents to 2; otherwise to 1, as in Vaswani et al. 2017;
* the score network starts as PyTorch starts it, dead in about a third of all cases (docs of `jattn.attention.neural`).
Not as released in either: windows begin elsewhere in each epoch, and dropout of embeddings acts on all of them, where
the released model adds a part that is not dropped.

`:smoke` reads small files of WikiText's names from --config.data.path, with a BPE learned from them.
"""

from jattn.config import AttentionConfig, Config, DataConfig, LoggingConfig, ModelConfig, OptimConfig, ValidationConfig
from jattn.config_arguments import choose


def get_config(arg: str = "") -> Config:
    chosen = choose(
        arg,
        "configs/neural_wikitext103.py",
        {"attention": ("neural", "standard"), "version": ("", "as_published"), "size": ("", "smoke")},
    )
    released = chosen["version"] == "as_published"
    config = Config(
        steps=2_000_010,
        model=ModelConfig(
            name="language_model",
            width=512,
            depth=8,
            num_heads=8,
            mlp_dim=1024,
            activation="relu",
            norm_position="post",
            norm_epsilon=1e-5,
            final_norm=True,
            positions="sinusoidal",
            embedding_scale=1 + 512**0.5,
            initialization="pytorch",
            dropout_rate=0.1,
            mlp_dropout_rate=0.1,
            attention=AttentionConfig("softmax", "use_bias=False"),
        ),
        data=DataConfig(
            name="wikitext103",
            source="folder",
            tokenizer="google-bert/bert-base-cased",
            options="raw=False, bert_marks=True, sequence_length=1024",
            batch_size=1,
            eval_batch_size=8,
        ),
        optim=OptimConfig(learning_rate=3e-4, schedule="constant", beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        validation=ValidationConfig(every=10_000),
        logging=LoggingConfig(every=1000, sample_every=10_000, sample_count=1, sample_tokens=512),
    )
    if chosen["attention"] == "neural":
        config.model.layers = "0:neural(use_bias=False)"
    if released:
        config.data.options += ", as_published=True"
        config.validation.split = "test"
        config.model.positions = "sinusoidal_neural"
        if chosen["attention"] == "neural":
            config.model.layers = "0:neural(use_bias=False, as_published=True)"
            config.model.embedding_scale = 2 + 512**0.5
    if chosen["size"] == "smoke":
        config.steps = 12
        config.model.width, config.model.depth, config.model.num_heads, config.model.mlp_dim = 16, 1, 2, 32
        config.data.tokenizer, config.data.options = "bpe(vocab_size=300)", "sequence_length=8"
        config.data.batch_size = config.data.eval_batch_size = 8
        config.validation.every = 6
        config.logging = LoggingConfig(every=4, tensorboard=False, attention_every=None)
    return config
