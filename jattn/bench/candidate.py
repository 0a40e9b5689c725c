"""What is measured: a call without arguments and the memory it needs. What cannot be measured becomes a row too."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jattn.bench.memory import available_bytes
from jattn.bench.timing import Timing, interleaved
from jattn.errors import UserError

Name = TypeVar("Name", bound=Hashable)

FAILURES = (UserError, MemoryError, RuntimeError, NotImplementedError)
"""What a row can end in; JAX's and PyTorch's own errors are RuntimeErrors."""

_MATMUL_REPEATS = 7


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A call without arguments, ready to be timed.

    run: the call; JAX arrays that it returns are waited for.
    scratch_bytes: memory besides inputs and outputs.
    peak_bytes: inputs, outputs and scratch together; None = not known.
    flops: of one call by formula (see `docs/performance.md`); None = not known.
    items: tokens or examples of one call; None = it has none.
    """

    run: Callable[[], object]
    scratch_bytes: int
    peak_bytes: int | None = None
    flops: int | None = None
    items: int | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A candidate and its timing, or why there is none.

    device_peak_bytes: the device's own peak statistic after the first call, where that call raised it.
    """

    candidate: Candidate | None = None
    timing: Timing | None = None
    error: str | None = None
    device_peak_bytes: int | None = None


def compiled(function: Callable[..., object], *arguments: Any, **figures: int | None) -> Candidate:
    """The candidate that calls a jitted function; `figures` are further fields.

    Raises:
      MemoryError: it needs more memory than the machine has left, which on a CPU would end the process.
    """
    program = jax.jit(function).lower(*arguments).compile()
    scratch, peak = program_memory(program)
    return Candidate(lambda: program(*arguments), scratch, peak, **figures)


def program_memory(program: jax.stages.Compiled) -> tuple[int, int]:
    """Bytes of scratch, and of arguments, outputs and scratch, of a compiled program.

    Raises:
      MemoryError: see `compiled`.
    """
    memory = program.memory_analysis()
    scratch, outputs = memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    left = available_bytes()
    if jax.default_backend() == "cpu" and left is not None and scratch + outputs > left:
        raise MemoryError(f"needs {(scratch + outputs) / 1e9:.1f} GB, of which {left / 1e9:.1f} GB are left")
    return scratch, memory.argument_size_in_bytes + outputs + scratch


def measure(makers: Mapping[Name, Callable[[], Candidate]], repeats: int) -> dict[Name, Measured]:
    """Makes all candidates, calls each once, and times in turn those that did not fail.

    Out of memory, a failed compilation or a mechanism that cannot do what is asked of it are results: they come back
    as `error`, and the others are measured all the same. Any other exception is a bug and is raised.
    """
    made, measured = {}, {}
    for name, make in makers.items():
        try:
            before = _device_peak()
            candidate = make()
            jax.block_until_ready(candidate.run())
            after = _device_peak()
        except FAILURES as error:
            measured[name] = Measured(error=_sentence(error))
            continue
        made[name] = candidate
        risen = after if after is not None and after > (before or 0) else None
        measured[name] = Measured(candidate, device_peak_bytes=risen)
    for name, timing in interleaved({name: candidate.run for name, candidate in made.items()}, repeats).items():
        measured[name] = dataclasses.replace(measured[name], timing=timing)
    return {name: measured[name] for name in makers}


def row(case: Mapping[str, Any], measured: Measured, matmul_rate: float | None = None) -> dict[str, Any]:
    """What a results file says of one candidate.

    Args:
      case: what distinguishes it from the other rows, and matches it with those of another file.
      matmul_rate: FLOP/s of the machine's matrix products (see `matmul_rate`).
    """
    if measured.error is not None:
        return {"case": dict(case), "error": measured.error}
    candidate, timing = measured.candidate, measured.timing
    found: dict[str, Any] = {
        "case": dict(case),
        "milliseconds": 1e3 * timing.median,
        "milliseconds_quartiles": [1e3 * value for value in timing.quartiles],
        "repeats": len(timing.seconds),
        "scratch_bytes": candidate.scratch_bytes,
        "peak_bytes": candidate.peak_bytes,
        "device_peak_bytes": measured.device_peak_bytes,
    }
    if candidate.items is not None:
        found["items_per_second"] = candidate.items / timing.median
    if candidate.flops is not None:
        found["flops"] = candidate.flops
        if matmul_rate:
            found["matmul_share"] = candidate.flops / timing.median / matmul_rate
    return found


def ratio(reference: Measured, measured: Measured) -> dict[str, Any] | None:
    """How many times faster, and with how many times less scratch, than a reference; None where either failed."""
    if reference.timing is None or measured.timing is None:
        return None
    median, low, high = reference.timing.ratio_to(measured.timing)
    scratch = reference.candidate.scratch_bytes / max(measured.candidate.scratch_bytes, 1)
    return {"speed": median, "speed_quartiles": [low, high], "scratch": scratch}


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a product of two large square matrices, the best of several: what the machine can do at most."""
    size = 8192 if jax.default_backend() == "gpu" else 1536
    x = jnp.ones((size, size), dtype)
    candidate = compiled(jnp.matmul, x, x)
    best = min(interleaved({"matmul": candidate.run}, _MATMUL_REPEATS)["matmul"].seconds)
    return 2 * size**3 / best


def _device_peak() -> int | None:
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


def _sentence(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return f"{kind}: {text[:300]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX, PyTorch or Python say so."""
    marks = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in marks)
