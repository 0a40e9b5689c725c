"""How long a trained model takes."""

import time
from typing import Any

import jax
import numpy as np

from jattn.data import Batch
from jattn.task import Task
from jattn.training.metrics import memory_in_use
from jattn.training.parallel import EvalStep
from jattn.types import PyTree


def speed(step: EvalStep, params: PyTree, batch: Batch, task: Task, batches: int) -> dict[str, Any]:
    """The time of an evaluation step, compiled before, from a batch on the host to its sums: the median of `batches`.

    A batch's seconds divided by its examples are an example's, and by their tokens a token's. Memory is the largest in
    use so far by the first device, or by the process where the device does not count.
    """
    jax.block_until_ready(step(params, batch))
    seconds = []
    for _ in range(batches):
        start = time.perf_counter()
        jax.block_until_ready(step(params, batch))
        seconds.append(time.perf_counter() - start)
    of_batch, size = float(np.median(seconds)), len(batch["inputs"])
    found: dict[str, Any] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "batch_size": size,
        "batches": batches,
        "seconds_per_batch": of_batch,
        "seconds_per_example": of_batch / size,
        "examples_per_second": size / of_batch,
    }
    if task.kind != "image":
        found["tokens_per_second"] = batch["inputs"].size / of_batch
    return found | {"peak_memory_bytes": memory_in_use()}
