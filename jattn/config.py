"""Every option of a run: name, default, unit and meaning, written here and nowhere else.

A config file under `configs/` returns a `Config`; the command line overrides any field
(`--config.model.width=128`). The options of one mechanism or data set are the fields of its own class and are
given as Python literals: `--config.model.attention.options='num_key_heads=2, rotary=True'`.
"""

from dataclasses import dataclass, field


@dataclass
class AttentionConfig:
    """The mechanism of all layers that `layers` and `pattern` do not override."""

    name: str = "softmax"  # a key of jattn.attention.MECHANISMS
    options: str = ""  # fields of the mechanism's module: "num_key_heads=2, qk_norm=True"


@dataclass
class ModelConfig:
    """The architecture. Sizes that the data decides (classes, vocabulary, image size) are not options."""

    name: str = "vision_transformer"  # language_model | text_classifier | vision_transformer
    width: int = 128  # C, features of the residual stream
    depth: int = 4  # blocks
    num_heads: int = 4  # H, query heads
    mlp_dim: int | None = None  # F, hidden features of the mlp; None = 4 width
    activation: str = "gelu"  # gelu (exact) | gelu_tanh | relu | silu
    norm_position: str = "pre"  # pre (x + f(norm x)) | post (norm(x + f x))
    norm_epsilon: float = 1e-6
    final_norm: bool | None = None  # norm before the output layer; None = with pre-norm only
    norm_bias: bool = True  # norms add a learned bias
    embedding_norm: bool = False  # norm of the embeddings before positions are added
    use_bias: bool = True  # biases in projections and mlp
    positions: str = "learned"  # learned | learned_every_layer | sinusoidal | sinusoidal_neural | rotary | none
    embedding_scale: float = 1.0  # multiplies token or patch embeddings before positions are added
    tie_embeddings: bool = False  # language model: output weights = embedding table
    causal: bool = True  # language model: False = tokens see those they are to predict, as a released code let them
    pooling: str = "mean"  # classifiers: mean (over valid tokens) | class_token
    head_hidden_dim: int | None = None  # classifiers: one ReLU layer of this size before the output; None = none
    class_token_std: float = 0.0  # of the class token at first, with pooling=class_token
    padding_token: int | None = 0  # text classifier: the token that is neither attended nor pooled; None = all are
    patch_size: int = 4  # vision transformer: pixels
    max_length: int | None = None  # longest sequence the positions can hold; None = what the data needs
    dropout_rate: float = 0.0  # on embeddings and on the output of each sub-layer
    embedding_dropout_rate: float | None = None  # on embeddings with their positions; None = dropout_rate
    head_dropout_rate: float = 0.0  # classifiers: on the pooled features and on the head's hidden ones
    attention_dropout_rate: float = 0.0  # on attention weights
    mlp_dropout_rate: float = 0.0  # on the hidden features of the mlp
    remat: str = "none"  # none | block (recompute all) | attention (recompute all but attention's output)
    initialization: str = "jattn"  # jattn | pytorch | gpt2 | keras | pay_better_attention | natural_attention
    dtype: str = "float32"  # of activations: float32 | bfloat16; parameters stay float32
    implementation: str | None = None  # of attention: dense, blockwise ...; None = chosen and printed
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    layers: str = ""  # overrides by index: "0:neural(projection_dim=4), 3:local(window=64)"
    pattern: str = ""  # repeated over the depth: "local, local, softmax"


@dataclass
class DataConfig:
    """Which examples, and how many at a time."""

    name: str = "digits"  # a key of jattn.data.DATASETS
    source: str = "embedded"  # embedded (needs no network); folder | huggingface | tfds for data sets that have it
    path: str = ""  # where it lies: docs/data.md; "" = where the data set is usually kept; huggingface: owner/name too
    tokenizer: str = ""  # text: bytes | characters | words(...) | bpe(...) | hub name | path; "" = the data set's own
    options: str = ""  # fields of the data set's class: "max_depth=4, max_length=64"
    batch_size: int = 64  # examples a step, over all devices and micro-batches
    eval_batch_size: int | None = None  # None = batch_size
    augment: bool = True  # random augmentation of training examples, on the device
    prefetch: int = 2  # batches prepared ahead


@dataclass
class LossConfig:
    """What is minimised. Metrics always include the cross-entropy's accuracy."""

    name: str = "cross_entropy"  # cross_entropy | binary_cross_entropy (one logit) | mean_squared_error (one-hot)
    label_smoothing: float = 0.0  # share of the target spread over all classes
    threshold: float = 0.0  # binary_cross_entropy: accuracy predicts class 1 for a logit above this


@dataclass
class OptimConfig:
    """An optax chain: clip, scale the gradient, L2, precondition, scale the update, decoupled decay, learning rate."""

    name: str = "adamw"  # adam | adamw | adagrad | sgd | lion | muon
    learning_rate: float = 1e-3  # peak
    schedule: str = "cosine"  # constant | cosine | linear | step | plateau, after the warmup
    warmup_steps: int = 0  # linear, from 0
    final_fraction: float = 0.0  # cosine and linear: learning rate at the end, as a share of the peak
    step_size: int = 1000  # step: optimizer steps between two decays
    step_gamma: float = 0.1  # step: factor of each decay
    step_limit: int | None = None  # step: so many decays and no more; None = as many as the run is long
    schedule_scope: str = "all"  # a decay_scope: parameters that follow the schedule; others keep the learning rate
    plateau_factor: float = 0.5  # plateau: factor when the training loss stops falling
    plateau_patience: int = 5  # plateau: windows without improvement before the factor is applied
    plateau_window: int = 100  # plateau: steps over which the loss is averaged
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9  # sgd and muon
    nesterov: bool = False  # sgd and muon
    weight_decay: float = 0.0
    decay_scope: str = "kernels"  # all | kernels_and_embeddings | kernels (matrices) | linear (without convolutions)
    decay_coupling: str = "decoupled"  # decoupled (as AdamW) | l2 (added to the gradient)
    clip_norm: float | None = None  # global norm of the gradient; None = no clipping
    clip_each: float | None = None  # norm of each parameter's gradient; None = no clipping
    attention_informed: str = "off"  # off | gradient | update | paper: scale by energies, docs/attention_informed.md
    energy_scale: float = 0.1  # attention_informed=gradient and update: factor 1 + tanh(energy_scale energy)
    energy_mix: float = 0.5  # attention_informed=update: share of the update that is not scaled
    energy_gamma: float = 1.0  # attention_informed=paper: share sigmoid(energy_gamma energy) of the usual update
    accumulation_steps: int = 1  # micro-batches a step; they divide the batch
    ema_decay: float | None = None  # exponential moving average of parameters, used to evaluate; None = off


@dataclass
class ParallelConfig:
    """How a step is divided over devices."""

    strategy: str = "jit"  # jit (over a mesh with axes data, model) | pmap (data only)
    data: int | None = None  # devices on the data axis; None = all that are left
    model: int = 1  # devices on the model axis (heads, hidden features, vocabulary)


@dataclass
class ValidationConfig:
    """Evaluation on held-out data while training."""

    split: str = "valid"  # valid | test: as sources that chose their best checkpoint on it; columns are valid/... too
    every: int | None = None  # steps; None = once an epoch
    batches: int | None = None  # None = the whole split


@dataclass
class CheckpointConfig:
    """What is kept, and how often."""

    every: int | None = None  # steps; None = as validation
    keep: int = 2  # newest checkpoints kept
    keep_best: int = 1  # best checkpoints kept besides
    best_metric: str = "valid/loss"  # a column of metrics.csv
    best_mode: str = "min"  # min | max


@dataclass
class LoggingConfig:
    """What is written while training."""

    every: int = 20  # steps between two rows of training metrics (means over the interval)
    tensorboard: bool = True
    wandb: str = "off"  # Weights & Biases: off | online | offline (sent later, by `wandb sync`); pip install wandb
    wandb_project: str = "jattn"
    sample_every: int | None = None  # language: steps between texts that the model writes into the log; None = never
    sample_count: int = 2  # texts at a time
    sample_tokens: int = 100  # tokens of a text, at most: it ends with the model's context
    sample_prompt: str = ""  # what they continue; "" = beginnings of texts of the validation split
    attention_every: int | None = 100  # steps between two looks at the attention of each layer; None = never


@dataclass
class Config:
    """One run. Exactly one of `steps` and `epochs` is set."""

    seed: int = 0
    init_from: str = ""  # folder of a run whose weights this one begins with (docs/init_from.md); "" = random ones
    steps: int | None = None  # optimizer steps
    epochs: float | None = None  # passes over the training split
    max_nonfinite_steps: int = 10  # stop after so many steps in a row with a non-finite loss or gradient
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
