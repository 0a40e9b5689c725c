"""Learning rate as a function of the number of updates made: SCHEDULES, after a linear warmup."""

from collections.abc import Callable

import optax

from jattn.config import OptimConfig
from jattn.errors import UserError, unknown


def _constant(config: OptimConfig, steps: int) -> optax.Schedule:
    del steps
    return optax.constant_schedule(config.learning_rate)


def _cosine(config: OptimConfig, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(config.learning_rate, steps, alpha=config.final_fraction)


def _linear(config: OptimConfig, steps: int) -> optax.Schedule:
    return optax.linear_schedule(config.learning_rate, config.learning_rate * config.final_fraction, steps)


def _step(config: OptimConfig, steps: int) -> optax.Schedule:
    del steps
    rate, gamma, limit = config.learning_rate, config.step_gamma, config.step_limit
    if limit is None:
        return optax.exponential_decay(rate, config.step_size, gamma, staircase=True)
    return optax.piecewise_constant_schedule(rate, {config.step_size * (n + 1): gamma for n in range(limit)})


SCHEDULES: dict[str, Callable[[OptimConfig, int], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "plateau": _constant,  # its factor depends on the loss: optax.contrib.reduce_on_plateau in the chain
}
"""Name -> function of (config, steps after the warmup)."""


def schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """The learning rate before any plateau factor: linear from 0 over the warmup, then the named schedule.

    Args:
      config: names the schedule; steps of its decays are counted from the end of the warmup.
      total_steps: updates of the whole run, warmup included; cosine and linear end there.

    Returns:
      Function of the number of updates made so far.

    Raises:
      UserError: unknown schedule, or a warmup that is longer than the run.
    """
    if config.schedule not in SCHEDULES:
        raise unknown("schedule", config.schedule, SCHEDULES)
    if config.warmup_steps > total_steps:
        raise UserError(
            f"optim.warmup_steps={config.warmup_steps} is longer than the run of {total_steps} steps: "
            "shorten the warmup or lengthen the run"
        )
    # A warmup that fills the run leaves the decay no step; optax wants at least one.
    after = SCHEDULES[config.schedule](config, max(total_steps - config.warmup_steps, 1))
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])
