"""Optimizers and schedules, built from optax by the names in the config."""
