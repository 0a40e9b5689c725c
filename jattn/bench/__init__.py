"""Benchmarks: what is claimed about speed and memory is measured by one of these (`docs/performance.md`)."""
