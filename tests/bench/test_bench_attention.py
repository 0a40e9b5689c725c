"""The benchmark of attention: what it measures, and what it refuses."""

import functools
import json

import pytest

from jattn.__main__ import main, parser
from jattn.bench import attention, results
from jattn.errors import UserError

SMALL = ("--lengths=8,12", "--heads=2", "--head_dim=4", "--repeats=2")


rate = functools.cache(attention.matmul_rate)


@pytest.fixture(autouse=True)
def _products_are_timed_once(monkeypatch):
    monkeypatch.setattr(attention, "matmul_rate", rate)


def run(*argv):
    args = parser().parse_args(["bench", "attention", *argv])
    return attention.run(args)


def test_scores_by_default(tmp_path, capsys):
    run(*SMALL, "--lengths=8", f"--out={tmp_path / 'out.json'}")
    result = results.read(tmp_path / "out.json")
    assert result["benchmark"] == "attention"
    assert {"device", "cores", "processor"} <= set(result["machine"])
    assert {"jax", "jaxlib", "flax", "python"} <= set(result["versions"])
    assert set(result["commit"]) == {"hash", "dirty"}
    assert result["matmul_flops_per_second"] > 0
    rows = result["rows"]
    cases = [(r["case"]["mechanism"], r["case"]["implementation"]) for r in rows]
    assert cases == [(score, name) for score in ("dot", "network") for name in ("dense", "blockwise")]
    for row in rows:
        assert row["case"]["part"] == "core"
        assert row["milliseconds_quartiles"][0] <= row["milliseconds"] <= row["milliseconds_quartiles"][1]
        assert row["flops"] > 0
    assert rows[0]["times_better_than"]["first"]["speed"] == 1.0
    assert "blockwise" in capsys.readouterr().out


def test_lengths_are_rows_one_after_another(tmp_path):
    run(*SMALL, "--scores=dot", "--implementations=dense", "--direction=forward", f"--out={tmp_path / 'out.json'}")
    assert [row["case"]["length"] for row in results.read(tmp_path / "out.json")["rows"]] == [8, 12]


def test_mechanisms_in_both_parts_and_directions_and_what_they_cannot_do(tmp_path):
    mechanisms = "--mechanisms=softmax, branching_conv(K=2, kernel_size=3)"
    options = ("--direction=forward,train", "--implementations=dense", "--lengths=8", f"--out={tmp_path / 'o.json'}")
    run(*SMALL, mechanisms, *options)
    rows = {
        (r["case"]["direction"], r["case"]["mechanism"], r["case"]["part"]): r
        for r in json.loads((tmp_path / "o.json").read_text())["rows"]
    }
    assert len(rows) == 2 * 2 * 2
    assert rows["train", "softmax", "module"]["flops"] == 3 * rows["forward", "softmax", "module"]["flops"]
    softmax = rows["forward", "softmax", "kernel"], rows["forward", "softmax", "module"]
    assert softmax[0]["flops"] < softmax[1]["flops"]
    failed = rows["forward", "branching_conv(K=2, kernel_size=3)", "module"]
    assert "has no choice of implementation" in failed["error"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--lengths=8,x",), "--lengths is a list of integers"),
        (("--lengths=0",), "at least 1 token"),
        (("--scores=dott",), "did you mean 'dot'"),
        (("--implementations=flash",), "unknown name in --implementations 'flash'"),
        (("--parts=whole",), "known: kernel, module"),
        (("--direction=backward",), "known: forward, train"),
        (("--mechanisms=sofmax",), "did you mean 'softmax'"),
        (("--mechanisms=neural(projection=4)",), "projection_dim"),
        (("--repeats=0",), "at least 1 round"),
        (("--out=/nowhere/at/all/x.json",), "there is no folder"),
        (("--peers",), "peers"),
    ],
)
def test_mistakes_are_sentences(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        run(*argv)


def test_the_command_line_says_so_too(capsys):
    assert main(["bench", "attention", "--lengths=x"]) == 2
    assert capsys.readouterr().err.startswith("error: --lengths is a list")


def test_peers_in_the_same_run(tmp_path):
    pytest.importorskip("torch", reason="peers are in PyTorch: pip install -r requirements-bench.txt")
    run(*SMALL, "--lengths=8", "--mechanisms=softmax,neural,convnn", "--peers", f"--out={tmp_path / 'o.json'}")
    result = results.read(tmp_path / "o.json")
    assert "torch" in result["versions"]
    rows = {(r["case"]["mechanism"], r["case"]["part"], r["case"]["implementation"]): r for r in result["rows"]}
    assert not [row for row in rows.values() if "error" in row]
    assert set(rows["softmax", "kernel", "chosen"]["times_better_than"]) == {"first", "released", "torch_fused"}
    assert ("convnn", "module", "released") not in rows  # it has no causal form
    ours, peer = (rows["neural", "module", name] for name in ("chosen", "released"))
    assert ours["times_better_than"]["released"]["scratch"] == peer["scratch_bytes"] / ours["scratch_bytes"]
