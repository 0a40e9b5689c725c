"""`python -m jattn bench attention`: time and scratch memory of the attention core, kernel only.

Every row of one length is measured in the same run, repetition by repetition in turn, so that ratios hold on a
machine that does other things too. Scratch is what the compiled program asks for besides inputs and outputs.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from jattn.bench.timing import Timing, interleaved, machine
from jattn.core import IMPLEMENTATIONS, Causal, Dot, attend
from jattn.errors import UserError, unknown
from jattn.types import Array, Float, Int, Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoFeatureNetwork:
    """A small ReLU network on two features of each token: a learned score to measure the core with."""

    hidden: Float[Array, "h 3"]
    output: Float[Array, "h 2"]

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """w3 relu(w21 relu(a1 + b1) + w22 relu(a2 + b2) + c2) + c3."""
        first, second = (jax.nn.relu(a[:, None] + b[None, :]) for a, b in zip(q, k, strict=True))
        hidden = jax.nn.relu(self.hidden[0] * first + self.hidden[1] * second + self.hidden[2])
        return self.output[0] * hidden + self.output[1]


SCORES = ("dot", "network")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--batch", type=int, default=1, help="examples (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=8, help="query and key heads (default: %(default)s)")
    parser.add_argument("--head_dim", type=int, default=64, help="features of a head (default: %(default)s)")
    parser.add_argument(
        "--lengths", default="1024", help="query and key tokens, comma-separated (default: %(default)s)"
    )
    parser.add_argument("--scores", default="dot,network", help=f"of {', '.join(SCORES)} (default: %(default)s)")
    parser.add_argument(
        "--implementations",
        default="dense,blockwise",
        help=f"of {', '.join(IMPLEMENTATIONS)}; ratios refer to the first (default: %(default)s)",
    )
    parser.add_argument("--direction", choices=("forward", "train"), default="train", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="every key for every query instead of causal")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the results")


def candidate(
    score: str, implementation: str, length: int, args: argparse.Namespace
) -> tuple[Callable[[], object], int]:
    """A compiled call without arguments, and its scratch memory in bytes."""
    keys = jax.random.split(jax.random.key(0), 8)
    shape = args.batch, args.heads, length
    value = jax.random.normal(keys[2], (*shape, args.head_dim), args.dtype)
    if score == "dot":
        inputs = tuple(jax.random.normal(key, (*shape, args.head_dim), args.dtype) for key in keys[:2])
        parameters: Any = Dot()
    else:
        inputs = tuple(tuple(jax.random.normal(k, shape) for k in jax.random.split(key)) for key in keys[:2])
        parameters = TwoFeatureNetwork(
            jax.random.normal(keys[3], (args.heads, 3)), jax.random.normal(keys[4], (args.heads, 2))
        )
    bias = None if args.full else Causal()

    def forward(operands: tuple) -> Array:
        (q, k), v, score = operands
        return attend(q, k, v, score=score, bias=bias, implementation=implementation)[0]

    def train(operands: tuple, cotangent: Array) -> tuple:
        out, pull = jax.vjp(forward, operands)
        return out, pull(cotangent)

    operands = inputs, value, parameters
    arguments = (
        (operands,) if args.direction == "forward" else (operands, jax.random.normal(keys[5], value.shape, args.dtype))
    )
    compiled = jax.jit(forward if args.direction == "forward" else train).lower(*arguments).compile()
    return lambda: compiled(*arguments), compiled.memory_analysis().temp_size_in_bytes


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each length, score and implementation."""
    rows = []
    for length in _numbers(args.lengths):
        made = {
            (score, name): candidate(score, name, length, args)
            for score in _names(args.scores, "score", SCORES)
            for name in _names(args.implementations, "attention implementation", IMPLEMENTATIONS)
        }
        timings = interleaved({key: run for key, (run, _) in made.items()}, args.repeats)
        first = next(iter(timings))
        for (score, name), timing in timings.items():
            scratch, reference = made[score, name][1], made[first][1]
            rows.append(_row(length, score, name, timing, timings[first], scratch, reference))
    return rows


def _row(length: int, score: str, name: str, timing: Timing, first: Timing, scratch: int, reference: int) -> dict:
    ratio, low, high = first.ratio_to(timing)
    return {
        "length": length,
        "score": score,
        "implementation": name,
        "milliseconds": timing.median * 1e3,
        "milliseconds_quartiles": [q * 1e3 for q in timing.quartiles],
        "tokens_per_second": length / timing.median,
        "scratch_bytes": scratch,
        "speedup_over_first": ratio,
        "speedup_quartiles": [low, high],
        "scratch_saving_over_first": reference / max(scratch, 1),
    }


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--lengths is a list of integers such as 256,1024, got {text!r}") from None


def _names(text: str, kind: str, known: Any) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return names


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, writes the JSON."""
    rows = measure(args)
    console = Console()
    kind = "all pairs" if args.full else "causal"
    title = (
        f"B{args.batch} H{args.heads} D{args.head_dim} {args.dtype}, {kind}, {args.direction}, {args.repeats} rounds"
    )
    table = Table(title=title)
    for column in ("T", "score", "implementation", "ms (quartiles)", "times faster (quartiles)", "scratch MB"):
        table.add_column(column, justify="left" if column in ("score", "implementation") else "right")
    for row in rows:
        low, high = row["milliseconds_quartiles"]
        slow, fast = row["speedup_quartiles"]
        table.add_row(
            str(row["length"]),
            row["score"],
            row["implementation"],
            f"{row['milliseconds']:.1f} ({low:.1f} to {high:.1f})",
            f"{row['speedup_over_first']:.2f} ({slow:.2f} to {fast:.2f})",
            f"{row['scratch_bytes'] / 1e6:.1f}",
        )
    console.print(table)
    if args.out:
        result = {
            "command": " ".join(["python -m jattn", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "rows": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {args.out}")
