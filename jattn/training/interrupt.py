"""Asking a training loop to stop: SIGTERM, as schedulers send it, and Ctrl-C."""

import signal
import sys
import threading
from types import FrameType, TracebackType

import jax

from jattn.training import processes


class StopRequest:
    """While entered, the first SIGTERM or Ctrl-C only sets `signal`; another one ends the process at once.

    Outside of the main thread, where Python forbids it, signals are left alone.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous: dict = {}

    def asked(self, due: bool) -> int:
        """The signal that asks this process to stop, 0 for none.

        Several processes must stop at the same step. They ask each other, all at once, where that is `due`; elsewhere
        there is none.
        """
        own = 0 if self.signal is None else int(self.signal)
        if jax.process_count() == 1:
            return own
        return processes.largest(own) if due else 0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for other in self.SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        print("stopping after this step; once more ends the process at once", file=sys.stderr, flush=True)
