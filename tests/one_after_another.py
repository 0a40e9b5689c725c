"""Runs command lines of the project's scripts one after another in this process, each as if it were alone.

python -m tests.one_after_another COMMANDS, which are a JSON list of lists such as ["train.py", "--restart"]; what they
print is shown as they print it, and the last line is a JSON list of {"returncode": ..., "stdout": ..., "stderr": ...}.
A process for each would import JAX each time.
"""

import contextlib
import io
import json
import runpy
import sys


class Shown(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text):
        print(text, end="", file=sys.__stdout__, flush=True)
        return super().write(text)


def outcome(argv):
    """What a script run with these arguments exits with and prints."""
    output, errors = Shown(), io.StringIO()
    sys.argv = argv
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(argv[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
    return {"returncode": code, "stdout": output.getvalue(), "stderr": errors.getvalue()}


if __name__ == "__main__":
    outcomes = [outcome(argv) for argv in json.loads(sys.argv[1])]
    print(json.dumps(outcomes))
