"""What a user sees of a run: lines, which also go to log.txt, and on a terminal a bar below them."""

import io
import sys
from types import TracebackType

import rich.console
from rich import progress as rich_progress


class Console:
    """Lines for the user, on standard output and in a log; a progress bar where somebody watches.

    Args:
      log: a text file opened for writing.
      output: where lines are printed; None = standard output.
    """

    def __init__(self, log: io.TextIOBase, output: io.TextIOBase | None = None):
        self._log = log
        self._output = sys.stdout if output is None else output
        self._bar: rich_progress.Progress | None = None

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_bar()

    def say(self, text: str) -> None:
        """Shows a line."""
        self._write(text)
        if self._bar is None:
            print(text, file=self._output, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Shows a line that begins with "warning:"."""
        self.say(f"warning: {text}")

    def begin_bar(self, done: int, total: int) -> None:
        """Shows a bar if the output is a terminal."""
        if self._output.isatty():
            self._bar = rich_progress.Progress(
                rich_progress.BarColumn(bar_width=24),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("left"),
                transient=True,
                console=rich.console.Console(file=self._output),
            )
            self._task = self._bar.add_task("compiling", completed=done, total=total)
            self._bar.start()

    def end_bar(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, step: int) -> None:
        """Moves the bar; costs nothing where there is none."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def training(self, step: int, total: int, numbers: str, seconds_left: float | int | None) -> None:
        """Training numbers of an interval: in the bar, or as a line; as a line of the log in any case."""
        left = "" if seconds_left is None else f"  {duration(seconds_left)} left"
        line = f"step {step}/{total}  {numbers}{left}"
        if self._bar is None:
            self.say(line)
        else:
            self._bar.update(self._task, description=numbers)
            self._write(line)

    def _write(self, text: str) -> None:
        self._log.write(text + "\n")
        self._log.flush()


def duration(seconds: float | int) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725), duration(59.6)
    ('1:02:05', '1:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
