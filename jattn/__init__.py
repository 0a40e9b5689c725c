"""jattn: research on attention in JAX."""

__version__ = "0.1.0"
