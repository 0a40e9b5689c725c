"""How pictures are saved."""

import argparse

import pytest
from matplotlib.figure import Figure

from jattn import figures


def drawn():
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1], **figures.look(11))
    return figure


def test_every_format_is_written_and_the_same_figure_gives_the_same_file(tmp_path):
    beginnings = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    paths = figures.save(drawn(), tmp_path, "a.b", [*figures.FORMATS, "png"])
    assert [path.name for path in paths] == ["a.b.png", "a.b.svg", "a.b.pdf"]
    once = [path.read_bytes() for path in paths]
    assert [content[:5].startswith(beginnings[ending]) for ending, content in zip(figures.FORMATS, once, strict=True)]
    figures.save(drawn(), tmp_path, "a.b", figures.FORMATS)
    assert once == [path.read_bytes() for path in paths]


def test_png_unless_asked_for_another():
    parser = argparse.ArgumentParser()
    figures.add_arguments(parser)
    assert parser.parse_args([]).format == ["png"]
    assert parser.parse_args(["--format", "svg", "pdf"]).format == ["svg", "pdf"]


def test_forty_lines_look_different():
    looks = {tuple(figures.look(index).values()) for index in range(40)}
    assert len(looks) == 40


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        figures.save(drawn(), tmp_path / "nowhere", "a")
