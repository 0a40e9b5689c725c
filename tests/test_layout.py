"""The package's imports point one way, and its tables of contents are complete."""

import ast
import pathlib

import pytest

import jattn

PACKAGE = pathlib.Path(jattn.__file__).parent

# Each part may import those before it and itself; parts of one row do not import each other.
ORDER = [
    {"__init__"},
    {"errors", "types", "process", "figures"},
    {"literals", "config_arguments"},
    {"core"},
    {"attention"},
    {"testing"},
    {"task", "config"},
    {"config_json", "models"},
    {"optim", "data"},
    {"generation"},
    {"training"},
    {"evaluation"},
    {"cli", "generate"},
    {"interop"},
    {"verify"},
    {"bench"},
    {"compare"},
    {"analysis"},
    {"report"},
    {"__main__"},
]


def part(path):
    """The part of the package a file belongs to; an entry point is one wherever it lies."""
    if path.name == "__main__.py":
        return "__main__"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The parts of jattn that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jattn":
            names = [node.module] if "." in node.module else [f"jattn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "jattn"]
        else:
            continue
        for name in names:
            below = name.split(".")[1:]
            known = below and any(below[0] in row for row in ORDER)
            yield below[0] if known else "__init__"


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.read_text().strip())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    rank = {name: index for index, row in enumerate(ORDER) for name in row}
    own = part(path)
    assert own in rank, f"give {own} a place in the order"
    for other in imported(path):
        assert other == own or rank[other] < rank[own], f"{own} imports {other}"


def test_every_import_is_seen():
    assert set(imported(PACKAGE / "core" / "attend.py")) == {"core", "types"}
    assert "training" in set(imported(PACKAGE / "evaluation" / "evaluate.py"))


def test_the_core_needs_neither_flax_nor_optax():
    for path in (PACKAGE / "core").glob("*.py"):
        words = [line.split() for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not {line[1].split(".")[0] for line in words} & {"flax", "optax", "orbax", "chex"}, path
