"""The notebooks of docs/notebooks work, and what they show is what their cells did."""

import re
import runpy

import nbformat
import pytest

from tests import commands

FOLDER = commands.ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|mnt|work|Users)/")
LARGEST = 400_000
"""Bytes of a file: what a reader of the repository downloads."""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows, but for how often: text, pictures, results."""
    return {output.get("name", output.output_type) for output in cell.outputs}


def test_notebooks_run_from_top_to_bottom(tmp_path, tmp_path_factory, monkeypatch):
    """As one, so that JAX is imported once; each begins without the names of those before it."""
    for name, value in commands.environment(commands.compiled_folder(tmp_path_factory)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JATTN_SMOKE", "1")
    monkeypatch.setenv("PYTHONPATH", str(commands.ROOT))
    executed = runpy.run_path(str(commands.ROOT / "scripts" / "run_notebooks.py"))["executed"]
    together = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        together.cells += [nbformat.v4.new_code_cell("%reset -f"), *nbformat.read(path, as_version=4).cells]
    nbformat.write(together, tmp_path / "together.ipynb")
    notebook = executed(tmp_path / "together.ipynb")
    for found, cell in zip(code_cells(notebook), code_cells(together), strict=True):
        assert kinds(found) == kinds(cell), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_what_one_run_gave(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert set.union(*map(kinds, cells)) <= {"stdout", "display_data", "execute_result"}
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_nothing_of_the_machine_that_ran_it(path):
    assert not MACHINE_PATH.search(path.read_text(encoding="utf-8"))


def test_the_page_lists_all_notebooks():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in NOTEBOOKS} == set(re.findall(r"\]\((\w+\.ipynb)\)", page)) != set()
