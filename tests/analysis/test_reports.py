"""What reports are made of, on weights made by hand."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from jattn.analysis import of_criticality, of_patterns, patterns, pictures, report
from jattn.analysis.observe import Observed, parse_numbers
from jattn.analysis.rollout import rollout
from jattn.errors import UserError
from jattn.models.classifier import TextClassifier
from jattn.models.language_model import LanguageModel
from jattn.task import Task
from tests import runs

N, H, T = 4, 2, 12
LOWER = np.tril(np.ones((T, T), bool))
WEIGHTS = [
    softmax(np.where(LOWER, 2 * np.random.default_rng(i).normal(size=(N, H, T, T)), -np.inf), -1).astype(np.float32)
    for i in range(2)
]
SEEN = Observed(
    examples=np.arange(N),
    inputs=np.zeros((N, T), np.int32),
    layers=[0, 1],
    heads=[[0, 1]] * 2,
    weights=WEIGHTS,
    real=np.ones((N, T), bool),
    allowed=np.broadcast_to(LOWER, (N, T, T)),
    whole=True,
)


def test_sweep_of_temperature():
    found = of_criticality.sweep(WEIGHTS[0], SEEN)
    entropies = [at["entropy"] for at in found]
    assert np.all(np.diff(entropies) > 0)
    as_trained = next(at for at in found if at["temperature"] == 1.0)
    own = patterns.of_layer(WEIGHTS[0], SEEN.real, SEEN.allowed)
    assert as_trained["entropy"] == pytest.approx(own["entropy"].mean(), rel=1e-6)
    order = (WEIGHTS[0].astype(np.float64) ** 2).sum(-1).mean(-1)
    assert as_trained["susceptibility"] == pytest.approx(T * order.var(0).mean(), rel=1e-4)


def test_panels_of_a_sweep_have_one_range_and_three_points():
    made = report.Report({})
    known = dict.fromkeys(of_criticality.SWEPT, 1.0)
    hot, cold = known | {"alpha": np.nan}, known | {"correlation_length": np.nan, "alpha": np.nan}
    hottest = known | {"susceptibility": np.inf}
    of_criticality._draw_sweep(made, {0: [cold] * 9, 1: [cold] * 6 + [hot, hottest, hottest]})
    panels = {axes.get_ylabel(): axes.get_xlim() for axes in made.figures["temperature"].axes if axes.get_ylabel()}
    titles = of_criticality.SWEPT
    assert list(panels) == [titles[q] for q in titles if q != "alpha"]
    assert len(set(panels.values())) == 1
    assert panels[titles["correlation_length"]][0] < 0.25
    assert made.notes == [f"{titles['alpha']}: known at 2 of 9 temperatures, too few for a curve (see the table)"]


def test_what_padded_queries_attend_to_is_in_no_sweep(monkeypatch):
    monkeypatch.setattr(of_criticality, "TEMPERATURES", (1.0,))
    real = np.broadcast_to(np.arange(T) < 2, (N, T))
    # Half of the keys or the other half, by example: correlated over a long way.
    halves = np.where(np.arange(T) // 6 == np.arange(N)[:, None] % 2, 1 / 6, 0.0)[:, None, None]
    other = np.where(real[:, None, :, None], WEIGHTS[0], halves)
    ((a,), (b,)) = (of_criticality.sweep(weights, SEEN._replace(real=real)) for weights in (WEIGHTS[0], other))
    np.testing.assert_equal(a, b)


def test_queries_that_are_padding_in_some_examples_do_not_fluctuate(monkeypatch):
    monkeypatch.setattr(of_criticality, "TEMPERATURES", (1.0,))
    alike = np.broadcast_to(WEIGHTS[0][:1], WEIGHTS[0].shape)
    real = np.arange(T) < np.array([[12], [12], [7], [3]])
    (found,) = of_criticality.sweep(alike, SEEN._replace(real=real))
    assert np.isnan(found["correlation_length"])


def test_cascades_reach_no_more_than_there_is():
    made = report.Report({})
    of_criticality._cascades(made, SEEN)
    sizes = made.values["cascades"]["sizes"]
    assert len(sizes) == N * T
    assert sizes.min() >= 1
    assert 1 < sizes.max() <= 1 + 2 * T


def test_spectra_are_of_the_matrices_that_blocks_multiply_with():
    rng = np.random.default_rng(0)
    query, out, mlp = rng.normal(size=(24, 2, 8)), rng.normal(size=(2, 8, 24)), rng.normal(size=(24, 40))
    params = {
        "block_0": {
            "attention": {"query": {"kernel": query, "bias": np.ones((2, 8))}, "out": {"kernel": out}},
            "mlp": {"hidden": {"kernel": mlp}, "small": {"kernel": np.ones((4, 4))}},
        },
        "output": {"kernel": mlp},
    }
    found = of_criticality.spectra(params)
    matrices = {
        "block_0/attention/query/kernel": query.reshape(24, 16),
        "block_0/attention/out/kernel": out.reshape(16, 24),
        "block_0/mlp/hidden/kernel": mlp,
    }
    assert set(found) == set(matrices)
    for name, matrix in matrices.items():
        largest = np.linalg.norm(matrix, 2) ** 2 / max(matrix.shape)
        assert found[name]["largest"] == pytest.approx(largest), name


def test_a_nearly_fixed_head_looks_nearly_fixed():
    fixed = [w.mean(0) + np.array([1.0, 0.01])[:, None, None] * (w - w.mean(0)) for w in WEIGHTS]
    made, seen = report.Report({}), SEEN._replace(weights=fixed)
    found = [patterns.of_layer(w, seen.real, seen.allowed) for w in fixed]
    of_patterns._draw(made, seen, found, np.eye(4), np.eye(2))
    axes, bar = made.figures["spread"].axes
    (image,) = axes.images
    shown = image.norm(image.get_array())
    assert shown[:, :T].max() == 1.0
    assert shown[:, -T:].max() < 0.15
    assert bar.get_ylim()[1] == pytest.approx(max(patterns.spread(w, seen.real).max() for w in fixed))


def test_tokens_are_coloured_in_proportion_and_escaped():
    page = pictures.coloured_tokens("t", [("h", ["a", "<b>"], np.array([0.1, 0.4]))])
    assert "&lt;b&gt;" in page
    assert re.findall(r"rgba\(255,120,0,([\d.]+)\)", page) == ["0.250", "1.000"]


def shown(page):
    """Of each heading the tokens and the weights that the mouse shows."""
    parts = re.findall(r"<h2>(.*?)</h2>\n<p>(.*?)</p>", page)
    return {heading: re.findall(r'title="([\d.]+)"[^>]*>([^<]*)<', text) for heading, text in parts}


DATA = runs.Unread(Task("language", vocab_size=50, length=T))


def rolled(seen, model):
    """The page of tokens of a model of text."""
    made = report.Report({})
    of_patterns._roll(made, seen, SimpleNamespace(model=model, dataset=DATA))
    return shown(made.pages["tokens"])


def test_texts_are_coloured_by_what_their_last_token_reads():
    tokens = np.arange(N * T).reshape(N, T)
    found = rolled(SEEN._replace(inputs=tokens), LanguageModel(vocab_size=50, depth=2, num_heads=H))
    expected = rollout(WEIGHTS)[3, -1]
    assert found["example 3: rollout of its last token"] == [
        (f"{w:.4f}", f"{t} ") for t, w in zip(tokens[3], expected, strict=True)
    ]


def test_tokens_that_attend_to_all_before_them_alike_are_coloured_alike():
    alike = [np.tile(LOWER / LOWER.sum(-1, keepdims=True), (N, H, 1, 1))] * 2
    tokens = np.zeros((N, T), np.int32)
    found = rolled(SEEN._replace(inputs=tokens, weights=alike), LanguageModel(vocab_size=50, depth=2, num_heads=H))
    of_layers = {heading: passage for heading, passage in found.items() if "its last token attends to" in heading}
    assert len(of_layers) == 2 * N
    assert all(passage == [(f"{1 / T:.4f}", "0 ")] * T for passage in of_layers.values())


def test_padding_and_the_class_token_are_no_text():
    # 11 tokens behind a class token, the last 4 of them padding.
    real = np.broadcast_to(np.arange(T) < 8, (N, T))
    tokens = np.broadcast_to(np.arange(1, T), (N, T - 1))
    model = TextClassifier(vocab_size=50, num_outputs=2, depth=2, num_heads=H, pooling="class_token")
    found = rolled(SEEN._replace(inputs=tokens, real=real), model)
    expected = rollout(WEIGHTS)[0, 0, 1:8]
    assert found["example 0: rollout of its class token"] == [
        (f"{w:.4f}", f"{t} ") for t, w in zip(range(1, 8), expected, strict=True)
    ]


def test_files(tmp_path):
    made = report.Report({"a": np.array([1.0, np.nan]), "b": (np.int64(2), np.inf)}, arrays={"w": np.eye(2)})
    made.pages["p"] = "text"
    made.figures["f"] = pictures.lines({"y": {"": ([0.0, 1.0], [1.0, 2.0])}}, "x")
    paths = report.write(made, tmp_path / "new", "n", ["svg", "png"])
    assert [path.name for path in paths] == ["n.json", "n.npz", "n-p.html", "n-f.svg", "n-f.png"]
    files = [path.name for path in paths[1:]]
    assert json.loads(paths[0].read_text()) == {"a": [1.0, None], "b": [2, None], "notes": [], "files": files}
    np.testing.assert_array_equal(np.load(paths[1])["w"], np.eye(2))


def test_a_second_report_leaves_nothing_of_the_first(tmp_path):
    first = report.Report({}, arrays={"w": np.eye(2)})
    first.pages |= {"old": "text", "both": "text"}
    report.write(first, tmp_path, "n")
    report.write(report.Report({}, pages={"p": "text"}), tmp_path, "n-other")
    (tmp_path / "n-own.html").write_text("of somebody else")
    report.write(report.Report({}, pages={"both": "new"}), tmp_path, "n")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"n.json", "n-both.html", "n-other.json", "n-other-p.html", "n-own.html"}
    assert (tmp_path / "n-both.html").read_text() == "new"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"files": 3}', '{"files": [3, "other.html", "n-a/../../kept", "../kept", "n.json"]}']
)
def test_only_what_a_report_can_have_written_is_removed(tmp_path, text):
    (tmp_path / "in" / "n-a").mkdir(parents=True)
    others = [tmp_path / "kept", tmp_path / "in" / "other.html"]
    for path in others:
        path.write_text("")
    (tmp_path / "in" / "n.json").write_text(text)
    assert report.write(report.Report({}), tmp_path / "in", "n") == [tmp_path / "in" / "n.json"]
    assert all(path.exists() for path in others)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with --out"):
        report.write(report.Report({}), tmp_path / "file", "n")


@pytest.mark.parametrize("text", ["a", "", "1,-2", "1.5"])
def test_what_are_no_indices(text):
    with pytest.raises(UserError, match="are no indices"):
        parse_numbers(text, "layers")
