"""Weights of other implementations, to and from jattn."""
