"""Asking a training loop to stop: SIGTERM, as schedulers send it, and Ctrl-C."""

import signal
import sys
import threading
from types import FrameType, TracebackType


class StopRequest:
    """While entered, the first SIGTERM or Ctrl-C only sets `signal`; another one ends the process at once.

    Outside of the main thread, where Python forbids it, signals are left alone.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous: dict = {}

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
