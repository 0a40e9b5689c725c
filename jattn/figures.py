"""How every picture is saved, and in which colours."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.figure  # half a second that only those who draw wait for

FORMATS = ("png", "svg", "pdf")
"""PNG to look at, SVG for pages, PDF for papers."""

DPI = 120

# Letters of a PDF as TrueType, which publishers ask for; the same figure gives the same file, byte for byte.
_SETTINGS = {"pdf.fonttype": 42, "svg.hashsalt": "jattn"}
_UNDATED: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The option --format, of commands that draw: `args.format` is for `save`."""
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["png"], help="of pictures; one or more (default: png)"
    )


def save(figure: "matplotlib.figure.Figure", folder: Path, name: str, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes FOLDER/NAME.FORMAT for each of `FORMATS` that is asked for; returns the paths.

    Raises:
      OSError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    paths = []
    with rc_context(_SETTINGS):
        for ending in dict.fromkeys(formats):
            # A name may hold dots, as that of an option does: with_suffix would cut it there.
            paths.append(folder / f"{name}.{ending}")
            figure.savefig(paths[-1], dpi=DPI, metadata=_UNDATED[ending])
    return paths


def look(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the line with this index: ten colours that colour-blind eyes tell apart (Petroff
    2021, arXiv:2107.02270), and other dashes and another marker for each further ten."""
    from matplotlib import color_sequences

    colours = color_sequences["petroff10"]
    turn = index // len(colours)
    return {
        "color": colours[index % len(colours)],
        "linestyle": _DASHES[turn % len(_DASHES)],
        "marker": _MARKERS[turn % len(_MARKERS)],
    }
