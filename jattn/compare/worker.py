"""One run in a process of its own: trained or continued by train.py's command line, evaluated by eval.py's.

    python -m jattn.compare.worker RECORD SPLIT CHECKPOINT --config=... --workdir=... [train.py's flags]

RECORD is a JSON file that says how it ended and what it ran on. A process that is killed leaves none. That of a run
which had finished, and is only evaluated again, stays: what is to be known of a run is who trained it.
"""

import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from jattn.cli import eval_main, parse_train, train_main
from jattn.config_json import config_hash
from jattn.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Trains, evaluates, records; returns the exit code of the first that failed.

    A run that SIGTERM or Ctrl-C stopped is neither evaluated nor recorded: it is to be continued.
    """
    record, split, checkpoint, *flags = argv
    start = time.perf_counter()
    command = ["train.py", *flags]
    wanted = parse_train(command)
    code = train_main(command)
    if code == 130:
        return code
    if code == 0:
        evaluation = ["eval.py", f"--workdir={wanted.workdir}", f"--split={split}", f"--checkpoint={checkpoint}"]
        code = eval_main([*evaluation, "--timed_batches=0", "--nopictures"])
    if code != 0 or not Path(record).exists():
        _write(Path(record), code, config_hash(wanted.config), time.perf_counter() - start)
    return code


def stop_without_parent() -> None:
    """Has this process stop, as by SIGTERM, when the comparison that began it is gone, however that ended.

    Nobody writes to its standard input, a pipe that ends with the comparison's process (`jattn.compare.runs`).
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):  # else it was begun by hand
        threading.Thread(target=wait, daemon=True).start()


def _write(path: Path, code: int, config: str, seconds: float) -> None:
    # After training: both import jax.
    from jattn.bench import results
    from jattn.training.run import write_atomically

    found = {
        "exit_code": code,
        "config_hash": config,
        "seconds": seconds,
        "commit": results.commit(),
        "machine": results.machine(),
        "versions": results.versions(),
    }
    write_atomically(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    stop_without_parent()
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
