"""How much memory is left, and a limit on it, so that what does not fit is an error and not the end of the process."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator

_CGROUP = pathlib.Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this process may still take: of the machine, or of its control group; None where unknown."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
        left = 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1])
    except (OSError, TypeError):
        return None
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return left if limit == "max" else min(left, int(limit) - int(used))
    except (OSError, ValueError):
        return left


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Allocations of the process beyond what is left fail, as far as the system can say so (Linux)."""
    left = available_bytes()
    if left is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + left
    if before[1] != resource.RLIM_INFINITY:
        wanted = min(wanted, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
