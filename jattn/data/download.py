"""Files from the web: resumed where they stopped, checked, and in their place only when whole."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import jattn
from jattn.errors import UserError

TIMEOUT = 20.0
"""Seconds without an answer or a byte after which a server counts as gone."""

ATTEMPTS = 5
"""How often a connection that broke is made again."""

_CHUNK = 2**18  # bytes read at a time

Report = Callable[[int], None]
"""Is told how many bytes are there."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
      path: where it belongs, from the data set's folder.
      url: where it is published.
      size: bytes.
      digest: "md5" or "sha256", a colon and the sum in hexadecimal digits.
    """

    path: str
    url: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]

    def fault(self, file: Path) -> str | None:
        """What is wrong with a copy of it; None if it is whole."""
        size = file.stat().st_size
        if size != self.size:
            return f"{size:,} bytes where {self.size:,} belong"
        kind, _, expected = self.digest.partition(":")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
        return None if found == expected else f"its {kind.upper()} is {found}, not {expected}"


def fetch(remote: Remote, folder: Path, report: Report, *, url: str | None = None, timeout: float = TIMEOUT) -> bool:
    """Gets a file, continuing what an earlier call has left; its name is `.part` until it is whole.

    Args:
      remote: the file.
      folder: of the data set.
      report: is told how far it is.
      url: of a mirror; None = where it is published.
      timeout: seconds without an answer or a byte after which it gives up.

    Returns:
      Whether something had to be got.

    Raises:
      UserError: the server cannot be reached or has another file, the connection broke too often, or the folder cannot
        be written to. What has come stays, unless it is wrong.
    """
    url = url or remote.url
    if not url.startswith(("https://", "http://")):
        raise UserError(f"--url {url}: give an address that begins with https:// or http://")
    target = folder / remote.path
    part = target.with_name(target.name + ".part")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if remote.fault(target) is None:
                return False
            target.replace(part)  # cut off, it is continued
        with _locked(part) as file:
            if _size(file) >= remote.size and remote.fault(part) is not None:
                file.truncate(0)
            _complete(url, file, target, remote, report, timeout)
            file.flush()
            os.fsync(file.fileno())
            fault = remote.fault(part)
            if fault is not None:
                file.truncate(0)
                raise UserError(
                    f"what {url} gave is not {remote.name} as published ({fault}) and has been removed: try again, or "
                    "name another source with --url"
                )
            part.replace(target)
    return True


def _complete(url: str, file: BinaryIO, target: Path, remote: Remote, report: Report, timeout: float) -> None:
    """Makes connections until all bytes are there."""
    reason = ""
    for _ in range(ATTEMPTS):
        report(_size(file))
        if _size(file) >= remote.size:
            return
        reason = _continue(url, file, target, remote, report, timeout)
    if _size(file) < remote.size:
        raise UserError(
            f"the connection to {url} broke {ATTEMPTS} times ({reason}), {_size(file):,} of {remote.size:,} bytes are "
            "there: the same command continues, or name another source with --url"
        )


def _continue(url: str, file: BinaryIO, target: Path, remote: Remote, report: Report, timeout: float) -> str:
    """Appends what one connection gives; returns why it ended, if it ended too early."""
    there = _size(file)
    headers = {"User-Agent": f"jattn/{jattn.__version__}"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # the server has a shorter file than what is there
            file.truncate(0)
            return "another file was there"
        raise UserError(
            f"{url} answered {error.code} ({error.reason}): try again later, or name another source with --url"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise UserError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}): without a network, get {remote.name} "
            f"elsewhere and put it at {target}"
        ) from None
    with response:
        continues = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {there}-")
        if not continues:  # the server gives whole files only
            there = 0
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and there + int(length) != remote.size:
            raise UserError(
                f"{url} has a file of {there + int(length):,} bytes where {remote.name} has {remote.size:,}: name "
                "another source with --url"
            )
        file.truncate(there)
        return _copy(response, file, remote, report)


def _copy(response: http.client.HTTPResponse, file: BinaryIO, remote: Remote, report: Report) -> str:
    """Appends bytes until there are no more, and no more than the file has; returns why it ended."""
    while (there := _size(file)) < remote.size:
        report(there)
        try:
            data = response.read1(min(_CHUNK, remote.size - there))  # what has come, rather than all or nothing
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        if not data:
            return "the server closed it"
        file.write(data)
    report(there)
    return ""


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """An unfinished file, for appending, which other processes leave alone; removed if nothing has come."""
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is getting {part.name.removesuffix('.part')}: wait for it") from None
        try:
            yield file
        finally:
            if part.exists() and not _size(file):
                part.unlink()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turns what the operating system refuses within the context into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror or error}): make room there, or name another folder with --path"
        ) from error
