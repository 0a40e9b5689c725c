"""What a page holds: read back from its file, against the runs that it is about."""

import base64
import gzip
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jattn.__main__ import main
from jattn.analysis import patterns
from jattn.analysis.observe import Observed, observe
from jattn.compare.report import NONE_SHOWN, NOT_TESTED
from jattn.models.vit import VisionTransformer
from jattn.report import attention, curves, packing, tables
from jattn.report.shown import DEFAULT, Cell
from jattn.training import setup
from jattn.training.metrics import read_csv
from jattn.training.trained import open_trained
from tests import runs

pytestmark = pytest.mark.usefixtures("experiments_are_kept")

LOCAL = "local_window_size=4"
"""The folder of the other cell's runs."""

TOKENS = 1 + 9 * 5
SEEN = Observed(
    examples=np.arange(8),
    inputs=np.zeros((1, 18, 10, 3), np.float32),
    layers=[0, 1],
    heads=[[0, 1, 2]] * 2,
    weights=[np.full((1, 3, TOKENS, TOKENS), 1 / TOKENS)] * 2,
    real=np.ones((1, TOKENS), bool),
    allowed=np.ones((1, TOKENS, TOKENS), bool),
    whole=True,
)
"""Of pictures of 9 x 5 patches of 2 x 2 pixels, and a class token."""


TINY = 1e-9


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return runs.smoke_comparison(tmp_path_factory)


@pytest.fixture(scope="module")
def page(comparison):
    return (comparison / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn(page):
    return json.loads(opened(page, "data", "drawn"))


def opened(page, kind, name):
    content = re.search(rf'<script type="text/plain" data-{kind}="{re.escape(name)}">([^<]*)</script>', page)
    return gzip.decompress(base64.b64decode(content.group(1)))


class Texts(HTMLParser):
    """Addresses, and the rows of each table."""

    def __init__(self):
        super().__init__()
        self.tables, self.addresses, self.rows, self.cell = {}, [], [], None

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.addresses += [of[name] for name in ("src", "href") if name in of]
        if tag == "table":
            self.rows = self.tables[of["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = tag

    def handle_endtag(self, tag):
        if tag == self.cell:
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


def read(page):
    parser = Texts()
    parser.feed(page)
    return parser


def test_the_page_needs_nothing_else(page):
    assert not [address for address in read(page).addresses if not address.startswith(("#", "data:"))]
    program = page[page.rindex('"use strict"') :]
    assert "http" not in program + page[: page.index("</style>")]
    assert b"Bokeh" in opened(page, "library", "bokeh.min.js")


def test_tables_say_what_the_comparison_found(page, comparison):
    found = json.loads((comparison / "comparison.json").read_text())
    rows = read(page).tables
    columns, *cells = rows["cells"]
    assert [row[0] for row in cells] == list(runs.COMPARED)
    assert [row[1] for row in cells] == ["● baseline", f"≈ {NONE_SHOWN}"]
    mean = found["cells"][1]["measures"]["accuracy"]["mean"]
    assert cells[1][columns.index("accuracy, %")].split(" ± ")[0] == f"{100 * mean:.4g}"
    difference = found["comparisons"][0]["paired"]["difference"]
    assert float(cells[1][columns.index("difference, %")].replace("−", "-")) == pytest.approx(
        100 * difference, abs=0.005
    )
    assert len(rows["runs"]) == 1 + 4
    options = {row[0]: row[1:] for row in rows["options"]}
    assert options["cell"] == ["model.attention.name", "model.attention.options"]
    assert options[runs.COMPARED[1]] == ["'local'", "'window_size=4'"]
    assert options["softmax"] == ["'softmax'", "''"]
    for note in found["notes"]:
        assert f"<li>{note.replace('<', '&lt;')}</li>" in page
    assert page.count("python train.py --config=") == 4


def test_curves_are_means_of_the_runs(page, drawn, comparison):
    by_title = {curve["title"]: curve for curve in drawn["curves"]}
    accuracy = by_title["valid/accuracy, %"]
    assert accuracy["factor"] == 100
    logs = [read_csv(comparison / "softmax" / f"seed{seed}" / "metrics.csv") for seed in (0, 1)]
    expected = [
        np.mean(pair) for pair in zip(*(log["valid/accuracy"] for log in logs), strict=True) if None not in pair
    ]
    assert accuracy["cells"]["softmax"]["y"] == pytest.approx(expected, rel=1e-4)
    assert drawn["curves"][0] is accuracy  # what is compared comes first
    assert (drawn["measure"], drawn["higher"], drawn["baseline"]) == ("accuracy, %", True, "softmax")
    entropy = json.loads(opened(page, "data", "dynamics"))["entropy"]["softmax"]["1"]
    assert entropy["x"] == [4, 8, 12]
    logged = [[v for v in log["attention/block_1/entropy"] if v is not None] for log in logs]
    assert entropy["y"] == pytest.approx(np.mean(logged, 0), rel=1e-4)


def test_maps_are_the_shares_of_the_weights(page, drawn, comparison):
    seen = drawn["attention"][0]
    trained = open_trained(comparison / "softmax" / "seed0")
    found = observe(trained.experiment, trained.params, "valid", np.arange(3))
    buffer = opened(page, "maps", "softmax")
    count = 4 * 2 * 16  # the mean and three examples, heads, tokens
    assert len(buffer) == 2 * count * (16 + 2)
    layer = buffer[count * 18 :]
    parts = np.frombuffer(layer[: count * 16], np.uint8).reshape(4, 2, 16, 16) / 255
    largest = np.frombuffer(layer[count * 16 :], "<u2").reshape(4, 2, 16, 1) / 65535
    expected = patterns.shares(found.weights[1])
    np.testing.assert_allclose((parts * largest)[1:], expected, atol=0.003)
    np.testing.assert_allclose((parts * largest)[0], expected.mean(0), atol=0.003)
    assert np.abs(expected - expected.mean(0)).max() > 0.03  # examples differ, so that their order matters
    of_layer = patterns.of_layer(found.weights[1], found.real, found.allowed)
    assert seen["statistics"]["entropy, nats"][1] == pytest.approx(of_layer["entropy"], rel=1e-3)
    assert np.shape(seen["rollout"]) == (3, 4, 4)


def test_spans_are_shown_where_there_are_any(monkeypatch):
    layer = {"span": [8.0, 3.0], "keys": [4.0, 2.0], "removed": [0.0, 0.1], "period": [None, 5.0]}
    found = {"adaptive": True, "layers": [{}, layer]}
    monkeypatch.setattr(attention.of_adaptive, "of_run", lambda workdir, trained: found)
    seen = SEEN._replace(layers=[1], heads=[[1]])
    shown = attention._adaptive(Path(), None, seen)
    assert shown == {
        "span, tokens": [[3.0]],
        "unmasked keys": [[2.0]],
        "masked by the wave": [[0.1]],
        "period, tokens": [[5.0]],
    }
    found["adaptive"] = False
    assert attention._adaptive(Path(), None, seen) == {}


def test_runs_laid_over_one_another(comparison, tmp_path):
    workdirs = [str(comparison / name / "seed1") for name in ("softmax", LOCAL)]
    out = tmp_path / "runs.html"
    assert main(["report", "--workdir", *workdirs, f"--out={out}", "--no-attention"]) == 0
    page = out.read_text()
    rows = read(page).tables
    assert [row[0] for row in rows["runs"]] == ["run", "softmax/seed1", f"{LOCAL}/seed1"]
    measures = json.loads((comparison / "softmax" / "seed1" / "results.json").read_text())["measures"]
    assert f"{100 * measures['accuracy']:.4g}" in rows["runs"][1]
    assert [row[0] for row in rows["options"]] == ["cell", "softmax/seed1", f"{LOCAL}/seed1"]
    shown = json.loads(opened(page, "data", "drawn"))
    assert (shown["attention"], shown["differences"], list(shown["cells"])) == (
        [],
        [],
        ["softmax/seed1", f"{LOCAL}/seed1"],
    )


def test_a_run_by_itself(comparison, tmp_path):
    out, run = tmp_path / "run.html", tmp_path / "default"  # a name that is a word of the page too
    shutil.copytree(comparison / "softmax" / "seed1", run, ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["report", f"--workdir={run}", f"--out={out}", "--no-attention"]) == 0
    rows = {row[0]: row[1:] for row in read(out.read_text()).tables["options"]}
    assert rows["option"] == [DEFAULT, "default"]
    assert (rows["seed"], rows["model.depth"][1]) == (["0", "1"], "2")
    assert "data.prefetch" not in rows


def test_a_comparison_without_its_runs_has_tables_and_curves(comparison, tmp_path):
    found = json.loads((comparison / "comparison.json").read_text())
    evil = "</script><script>alert(1)</script>"
    text = json.dumps(found).replace(runs.COMPARED[1], evil).replace('"failure": ""', '"failure": "it burnt"', 1)
    (tmp_path / "comparison.json").write_text(text)
    assert main(["report", f"--comparison={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    rows = read(page).tables
    assert [row[0] for row in rows["cells"]] == ["cell", "softmax", evil]
    assert "failed: it burnt" in rows["runs"][1]
    shown = json.loads(opened(page, "data", "drawn"))
    assert (shown["attention"], len(shown["differences"])) == ([], 1)
    (curve,) = shown["curves"]
    both = [run["curve"]["values"] for run in found["runs"] if run["cell"] == runs.COMPARED[1]]
    assert (curve["title"], list(curve["cells"])) == ("valid/accuracy, %", ["softmax", evil])
    assert curve["cells"][evil]["y"] == pytest.approx(np.mean(both, 0), rel=1e-4)


def test_without_a_difference_there_is_no_picture_of_any(comparison, tmp_path):
    found = json.loads((comparison / "comparison.json").read_text())
    found["comparisons"][0]["paired"] |= dict.fromkeys(("difference", "interval", "p_value", "p_corrected"))
    found["comparisons"][0]["verdict"] = NOT_TESTED
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    assert main(["report", f"--comparison={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert NOT_TESTED in read(page).tables["cells"][2][1]
    assert 'data-panel="differences"' not in page
    assert 'data-panel="curves"' in page


def test_a_band_is_the_bootstrap_interval_of_the_mean():
    values = np.random.default_rng(0).normal(size=(5, 3))
    every = np.array([values[list(rows)].mean(0) for rows in itertools.product(range(5), repeat=5)])
    low, high = curves.band(values, 20_000)
    # So few rows have few means: an end lies on one that holds the 2.5 % between what is before it and itself.
    for before, until in ((every < low - TINY, every < low + TINY), (every > high + TINY, every > high - TINY)):
        assert np.all(before.mean(0) <= 0.032)
        assert np.all(until.mean(0) >= 0.018)


def test_long_curves_are_thinned(tmp_path, comparison):
    folder = tmp_path / "run"
    shutil.copytree(comparison / "softmax" / "seed0", folder)
    rows = "".join(f"{step},0.1,{1 / step},\n" for step in range(1, 1001))
    (folder / "metrics.csv").write_text(f"step,epoch,train/loss,valid/loss\n{rows}")
    found = curves.of_cells([Cell("a", (folder,), (0,))])
    steps = found["train/loss"]["a"]["x"]
    assert (len(steps), steps[0], steps[-1], list(found)) == (curves.POINTS, 1, 1000, ["train/loss"])


def test_shares_survive_being_packed():
    maps = np.random.default_rng(0).dirichlet(np.full(9, 0.3), size=(2, 9))
    maps[0, 4] = 0  # a query without keys
    parts, largest = packing.quantized(maps)
    assert (parts.dtype, largest.dtype) == (np.uint8, np.dtype("<u2"))
    np.testing.assert_allclose(parts / 255 * largest[..., None] / 65535, maps, atol=1 / 255)
    assert json.loads(gzip.decompress(base64.b64decode(packing.packed_json([1.23456789, float("nan"), "é"])))) == [
        1.2346, None, "é",
    ]  # fmt: skip


def test_pictures_of_many_patches_are_pooled():
    model = VisionTransformer(num_outputs=2, patch_size=2, pooling="class_token")
    pool, blocks = attention._pool(model, SEEN, 8)
    assert blocks == (3, 2)  # of 9 x 5 patches, 3 x 3 each
    assert pool.sum(0).tolist() == [1.0] * TOKENS
    assert pool[0].nonzero()[0].tolist() == [0]
    assert (pool[2].nonzero()[0] - 1).tolist() == [3, 4, 8, 9, 13, 14]
    maps = attention._pooled_maps(SEEN.weights[0], SEEN.real, 1, pool)
    np.testing.assert_allclose(maps[1, 0, 3], pool.sum(1) / TOKENS)
    fitting = attention._fitting(model, SEEN, 64, 20_000)
    assert fitting.blocks == (5, 3)  # 9 x 5 would take 27,000 bytes with the mean map
    assert 6 * len(fitting.pool) * (len(fitting.pool) + 2) * (1 + fitting.examples) <= 20_000


def test_padding_of_a_text_is_not_shown():
    """Whatever it attends to: its rows are zero, its tokens are left out and not counted."""
    experiment = setup.build(runs.get_config("listops_classifier", "smoke"))
    seen = SEEN._replace(
        examples=np.arange(2), inputs=np.array([[7, 8, 9, 0, 0], [7, 8, 9, 6, 5]]), heads=[[0]],
        weights=[np.full((2, 1, 5, 5), 0.2)], real=np.array([[True] * 3 + [False] * 2, [True] * 5]),
    )  # fmt: skip
    fitting = attention._fitting(experiment.model, seen, 4, 1000)
    maps = attention._pooled_maps(seen.weights[0], seen.real, fitting.examples, fitting.pool)
    np.testing.assert_allclose(maps[:, 0].sum(-1), [[0.8] * 4, [0.8, 0.8, 0.8, 0.0], [0.8] * 4])
    shown = attention._examples(experiment, "valid", seen, fitting)
    assert shown["texts"] == [["7 ", "8 ", "9 "], ["7 ", "8 ", "9 ", "6 "]]
    assert shown["lengths"] == [3, 5]


def test_a_table_marks_numbers_and_what_is_missing():
    made = tables.table("t", "T", {"a": "", "<b>": "why"}, [[tables.Entry("x"), tables.Entry("", float("nan"))]])
    assert '<th scope="col" class="number" title="why"><button type="button">&lt;b&gt;</button></th>' in made
    assert '<td class="number" data-order="nan"></td>' in made


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "give either --comparison=DIR"),
        (["--comparison={c}", "--workdir={c}"], "give either --comparison=DIR"),
        (["--comparison={t}"], "holds no comparison.json"),
        (["--comparison={t}/no"], "does not exist"),
        (["--comparison={t}/odd"], "is no comparison of format"),
        (["--workdir={t}"], "holds no run"),
        (["--workdir={c}/softmax/seed0", "--out={t}/no/page.html"], "make it first"),
        (["--workdir={c}/softmax/seed0", "--out={t}/odd", "--no-attention"], "cannot write"),
        (["--workdir={c}/softmax/seed0", "--out={t}/page.html", "--layers=2"], "the model has layers 0 to 1"),
        (["--workdir={c}/softmax/seed0", "--out={t}/page.html", "--checkpoint=7"], "7"),
        (["--comparison={c}", "--out={t}/page.html", "--seed=2"], "softmax has finished runs of seeds 0, 1 only"),
        (["--workdir={t}/bare", "--out={t}/page.html"], "checkpoint"),
        (["--comparison={c}", "--tokens=3"], "--tokens=3 must be at least 8"),
    ],
)
def test_mistakes_are_one_sentence(argv, says, comparison, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "comparison.json").write_text('{"format": 0}')
    shutil.copytree(comparison / "softmax" / "seed0", tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["report", *(word.format(c=comparison, t=tmp_path) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "page.html").exists()
