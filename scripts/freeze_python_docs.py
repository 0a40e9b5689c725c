"""Make jattn's frozen copy of Python's language reference from the running Python's `pydoc_data.topics`.

    python3.11 scripts/freeze_python_docs.py jattn/data/embedded

writes python_docs.txt.xz, LICENSE-python.txt and NOTICE-python.txt, and prints the size and the SHA-256 of the
text, which `jattn/data/python_docs.py` checks on every load. The text differs between releases of Python
(and from one maintenance release to the next), which is why a copy is frozen at all.
"""

import argparse
import hashlib
import lzma
import platform
import sysconfig
from pathlib import Path

NOTICE = """\
python_docs.txt.xz is derived from the language reference that Python {version} carries as `pydoc_data.topics`.
Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved. Its licence is LICENSE-python.txt.

Changes made to the original: the texts of all topics were joined in the order of their sorted names; blank
lines around them, and every paragraph that repeats an earlier one (white space aside), were left out; the
result was encoded as UTF-8 and compressed with xz. Made by scripts/freeze_python_docs.py.

size of the text: {size} bytes
SHA-256 of the text: {digest}
"""


def distinct_paragraphs(topics: dict[str, str]) -> list[str]:
    """The paragraphs of all topics, in the order of the topics' names, each one once.

    Two paragraphs are the same when they differ in nothing but white space (indentation, line breaks).
    """
    first = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            first.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    first.pop("", None)
    return list(first.values())


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    from pydoc_data.topics import topics

    text = "\n\n".join(distinct_paragraphs(topics)).encode()
    digest = hashlib.sha256(text).hexdigest()
    licence = Path(sysconfig.get_path("stdlib"), "LICENSE.txt").read_text(encoding="utf-8")
    notice = NOTICE.format(version=platform.python_version(), size=len(text), digest=digest)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python_docs.txt.xz").write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    (folder / "LICENSE-python.txt").write_text(licence, encoding="utf-8")
    (folder / "NOTICE-python.txt").write_text(notice, encoding="utf-8")
    print(f"{len(text)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
