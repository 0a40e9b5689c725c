"""Optimizers and schedules, built from optax by the names in the config, and one of our own."""

from jattn.optim.attention_informed import attention_informed

__all__ = ["attention_informed"]
