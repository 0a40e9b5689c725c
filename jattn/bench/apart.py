"""A candidate in a process of its own.

Two libraries in one process share more than its cores: the settings of the memory allocator, which jattn's commands
tune for XLA (`jattn.process`) and which change a PyTorch step by up to a factor of five, and threads. So each side runs
as its users run it.
"""

import dataclasses
import multiprocessing
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import jax

from jattn.bench.candidate import FAILURES, Candidate, is_out_of_memory
from jattn.bench.timing import Seconds, seconds_of
from jattn.errors import UserError


def apart(make: Callable[..., Candidate], *arguments: Any) -> Candidate:
    """The candidate that `make(*arguments)` is in a new process, which ends with it; on a GPU, made here.

    Args:
      make: a function of a module.
      arguments: what can be pickled.

    Raises:
      UserError, MemoryError, RuntimeError: what making it raised there.
    """
    if jax.default_backend() != "cpu":  # processes take turns on a GPU, and wait for that
        return make(*arguments)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()
    run = _Call(here)
    weakref.finalize(run, _end, here, process)
    return dataclasses.replace(run.answer(), run=run)


class _Call:
    """A call in the other process; returns the seconds that it took there."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def __call__(self) -> Seconds:
        self._connection.send(None)
        return Seconds(self.answer())

    def answer(self) -> Any:
        """What the other process sends, raised if it is an error."""
        try:
            found = self._connection.recv()
        except EOFError:
            raise RuntimeError("its process ended") from None
        if isinstance(found, Exception):
            raise found
        return found


def _end(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.join(10)


def _serve(connection: Connection, make: Callable[..., Candidate], arguments: tuple) -> None:
    """Makes the candidate, sends its figures, and then the seconds of a call for each message."""
    try:
        candidate = make(*arguments)
        connection.send(dataclasses.replace(candidate, run=None))
        while True:
            connection.recv()
            connection.send(seconds_of(candidate.run))
    except EOFError:
        return  # nobody needs it any more
    except FAILURES as error:
        connection.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """An error that can be pickled, of a kind that becomes a row."""
    if is_out_of_memory(error):
        return MemoryError(str(error))
    kind = UserError if isinstance(error, UserError) else RuntimeError
    return kind(str(error))
