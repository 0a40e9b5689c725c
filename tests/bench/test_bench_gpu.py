"""The benchmark of the fused kernels: refused without a GPU, and its parts at toy sizes with interpreted kernels."""

import itertools

import jax.numpy as jnp

from jattn.__main__ import main
from jattn.bench.gpu import Setting, _cudnn, correctness, inputs, lengths, step, sweep, table, timed

TOY = Setting(
    batch=1, heads=4, head_dim=16, tokens=32, checked_tokens=33, lengths=(64,), repeats=2, sweep=((16, 32, 4, 2),)
)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert main(["bench", "gpu", "--out", str(out)]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert main(["bench", "gpu", "--out", str(out), "--parts", "sweeps"]) == 2
    assert "did you mean 'sweep'" in capsys.readouterr().err
    assert not out.exists()


def test_errors_are_small():
    row = next(correctness(TOY))  # of dot products; tests/core/test_pallas_gpu.py has all kinds
    assert row["dtype"] == "float32"
    assert 0 < row["value"] < 1e-5
    assert 0 < row["gradient"] < 1e-5


def test_what_cannot_run_is_a_row_with_the_reason():
    call = inputs("dot", batch=1, heads=2, tokens=16, head_dim=8, dtype=jnp.bfloat16)
    candidates = {"cudnn": lambda: _cudnn(call), "ours": lambda: step(call, "blockwise")}
    without, ours = timed(candidates, repeats=2)
    assert "error" in without  # it takes a GPU
    assert ours["milliseconds"] > 0
    assert ours["of_first"] == 1
    assert table("targets", [without, ours]).row_count == 2


def test_lengths_have_equally_many_tokens():
    (row,) = lengths(TOY)
    assert (row["tokens"], row["batch"], row["candidate"]) == (64, 1, "pallas_gpu")
    assert row["milliseconds"] > 0


def test_block_sizes_are_swept_kernel_by_kernel():
    now, other = itertools.islice(sweep(TOY), 2)
    assert (now["kernel"], now["candidate"], other["candidate"]) == ("forward", "now", "16-32-4-2")
    assert now["milliseconds"] > 0
    assert other["milliseconds"] > 0
