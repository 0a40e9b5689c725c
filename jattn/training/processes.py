"""Several processes that train one model together, as on several machines (`jax.distributed`).

All of them compute and save their part of every checkpoint. The first one alone writes to the run's folder otherwise
and speaks to the user; what the others would write goes to a folder that is gone when they end.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from jattn.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Makes this process one of several. Before anything else asks JAX for its devices.

    The environment says which one of how many it is, and where the first one listens (host:port): VARIABLES. Where none
    of them is set, JAX asks the cluster: Slurm, Open MPI, a TPU pod, Kubernetes.

    Raises:
      UserError: the others cannot be found.
    """
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if found and len(found) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in found)
        raise UserError(f"{', '.join(found)} is set, so {missing} must be set too")
    try:
        if found:
            address, number, own = (found[name] for name in VARIABLES)
            jax.distributed.initialize(address, int(number), int(own))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed finds no other processes ({error}): start it in Slurm, Open MPI or on a TPU pod, or set "
            f"{', '.join(VARIABLES)}"
        ) from error


def is_first() -> bool:
    """Whether this process writes and speaks; the only one does."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when all processes have come to this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def of_first(number: int) -> int:
    """The number that the first process has given. All must call this."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def largest(number: int) -> int:
    """The largest number that a process has given. All must call this."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
