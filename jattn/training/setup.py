"""From a config to everything a run needs, before anything is written."""

import math
from dataclasses import dataclass

from jattn import data, models
from jattn.config import Config
from jattn.data import Dataset
from jattn.errors import UserError, unknown
from jattn.models.transformer import Transformer
from jattn.optim.build import Optimizer
from jattn.optim.build import build as build_optimizer
from jattn.training import initialization, losses, measures, parallel, samples
from jattn.training.parallel import Parallel
from jattn.training.samples import Sampler

VALIDATION_SPLITS = ("valid", "test")


@dataclass(frozen=True)
class Plan:
    """When what happens, in optimizer steps.

    Attributes:
      total: length of the run.
      steps_per_epoch: batches in a pass over the training split, a fraction included.
      validate_every, checkpoint_every, log_every, sample_every, attention_every: intervals; all also happen at the
        end. No texts are sampled, no attention is looked at, where theirs is None.
    """

    total: int
    steps_per_epoch: float
    validate_every: int
    checkpoint_every: int
    log_every: int
    sample_every: int | None
    attention_every: int | None

    def due(self, step: int, every: int | None) -> bool:
        """Whether something that happens every so many steps (None: never) happens after this one."""
        return every is not None and (step % every == 0 or step == self.total)


@dataclass(frozen=True)
class Experiment:
    """A config and the objects it describes.

    Attributes:
      config: of the run.
      dataset: its data.
      model: unbound module.
      optimizer: optax transformation.
      parallel: compiled steps (compiled when first called).
      plan: intervals.
      validation_metrics: names of what validation measures.
      sampler: writes texts while the model is trained; None = none are asked for.
    """

    config: Config
    dataset: Dataset
    model: Transformer
    optimizer: Optimizer
    parallel: Parallel
    plan: Plan
    validation_metrics: tuple[str, ...]
    sampler: Sampler | None


def build(config: Config, dataset: Dataset | None = None) -> Experiment:
    """Everything that a config describes, with all of its options checked.

    Args:
      config: of the run.
      dataset: its data; None = what `config.data` describes.

    Raises:
      UserError: any option that is unknown, out of range or contradicts another.
    """
    if dataset is None:
        dataset = data.build(config.data)
    initialization.check(config.model.initialization)
    for split in dataset.splits:
        if not dataset.size(split):
            raise UserError(f"split {split!r} of data set {config.data.name} is empty: it needs examples")
    model = models.build(config.model, dataset.task, num_outputs=losses.num_outputs(config.loss, dataset.task))
    plan = make_plan(config, dataset.size("train"))
    optimizer = build_optimizer(config.optim, plan.total)
    steps = parallel.build(config, model, optimizer, dataset)
    names = measures.names(losses.measured(config.loss, dataset.task), dataset.task)
    if optimizer.reads_energies:
        steps.check_train_step()
    _check_checkpoints(config, names)
    if config.validation.split not in VALIDATION_SPLITS:
        raise unknown("validation.split", config.validation.split, VALIDATION_SPLITS)
    sampler = samples.build(config, dataset, model)
    return Experiment(config, dataset, model, optimizer, steps, plan, names, sampler)


def make_plan(config: Config, train_size: int) -> Plan:
    """The intervals of a run over `train_size` examples.

    Raises:
      UserError: not exactly one of steps and epochs, or an interval below one.
    """
    if (config.steps is None) == (config.epochs is None):
        raise UserError(
            f"steps={config.steps} and epochs={config.epochs}: set exactly one of them, and the other to None"
        )
    for name, value in (
        ("steps", config.steps),
        ("max_nonfinite_steps", config.max_nonfinite_steps),
        ("data.batch_size", config.data.batch_size),
        ("validation.every", config.validation.every),
        ("validation.batches", config.validation.batches),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep", config.checkpoint.keep),
        ("logging.every", config.logging.every),
        ("logging.sample_every", config.logging.sample_every),
        ("logging.attention_every", config.logging.attention_every),
        ("logging.sample_count", config.logging.sample_count),
        ("logging.sample_tokens", config.logging.sample_tokens),
    ):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    if config.epochs is not None and not 0 < config.epochs < math.inf:
        raise UserError(f"epochs={config.epochs} must be a number above 0")
    for name, value in (("checkpoint.keep_best", config.checkpoint.keep_best), ("data.prefetch", config.data.prefetch)):
        if value < 0:
            raise UserError(f"{name}={value} must be at least 0")
    steps_per_epoch = train_size / config.data.batch_size
    epoch = max(1, round(steps_per_epoch))
    validate_every = epoch if config.validation.every is None else config.validation.every
    return Plan(
        total=math.ceil(config.epochs * steps_per_epoch) if config.steps is None else config.steps,
        steps_per_epoch=steps_per_epoch,
        validate_every=validate_every,
        checkpoint_every=validate_every if config.checkpoint.every is None else config.checkpoint.every,
        log_every=config.logging.every,
        sample_every=config.logging.sample_every,
        attention_every=config.logging.attention_every,
    )


def eval_batch_size(config: Config) -> int:
    """Examples in a batch of evaluation."""
    return config.data.batch_size if config.data.eval_batch_size is None else config.data.eval_batch_size


def _check_checkpoints(config: Config, names: tuple[str, ...]) -> None:
    if config.checkpoint.best_mode not in ("min", "max"):
        raise unknown("checkpoint.best_mode", config.checkpoint.best_mode, ("min", "max"))
    known = [f"valid/{name}" for name in names]
    if config.checkpoint.best_metric not in known:
        raise unknown("checkpoint.best_metric", config.checkpoint.best_metric, known)
