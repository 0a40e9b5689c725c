"""`python -m jattn bench targets`: the project's goals for speed and memory, each against its peer in the same run.

    python -m jattn bench targets --out targets.json
    python -m jattn bench targets --only neural span span_wave --repeats 9

Forward and backward, float32, ours and the peer in turn, each in its process. Kernels are measured without
projections on both sides, steps as a whole. A goal is a ratio: the peer's time over ours, and its scratch memory over
ours. They are meant for two CPU cores: `--threads 2`.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from jattn.attention.mechanism import mechanism
from jattn.bench import peers, results, table
from jattn.bench.apart import apart
from jattn.bench.attention import CHOSEN, Case, Setting, measured_rows, mechanism_candidate, peer_candidate
from jattn.bench.candidate import Candidate
from jattn.bench.step import config_of, step_makers, use
from jattn.errors import UserError, unknown
from jattn.literals import parse_calls


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be reached: `speed` times the peer's speed with 1 / `scratch` of its scratch memory (None = no goal).

    peer: a key of `jattn.bench.peers.PEERS`.
    """

    speed: float | int
    scratch: float | int | None = None
    peer: str = "released"


@dataclasses.dataclass(frozen=True)
class KernelTarget(Target):
    """Of a mechanism's kernel."""

    mechanism: str = "softmax"
    setting: Setting = dataclasses.field(kw_only=True)

    def makers(self, loaded: Any) -> dict[Case, Callable[[], Candidate]]:
        """Ours, and the peer."""
        (call,) = parse_calls(self.mechanism)
        chosen = mechanism(*call)
        case = {"mechanism": str(chosen), "part": "kernel"}
        return {
            self.setting.case(**case, implementation=CHOSEN): lambda: mechanism_candidate(
                self.setting, chosen, "kernel"
            ),
            self.setting.case(**case, implementation=self.peer): lambda: apart(
                peer_candidate, self.setting, chosen, "kernel", self.peer
            ),
        }


@dataclasses.dataclass(frozen=True)
class StepTarget(Target):
    """Of a whole training step of a built-in model, with a mechanism in all layers or with options set."""

    model: str = "vit_tiny"
    mechanism: str | None = None
    options: tuple[str, ...] = ()

    def makers(self, loaded: Any) -> dict[Case, Callable[[], Candidate]]:
        """Ours, and the peer."""
        config, chosen = config_of(self.model, list(self.options)), None
        if self.mechanism is not None:
            (call,) = parse_calls(self.mechanism)
            chosen = mechanism(*call)
            use(config, chosen)
        return step_makers(self.model, config, chosen, loaded)


_CAUSAL = Setting(batch=1, heads=8, head_dim=64, length=1024, causal=True)
_LONG = dataclasses.replace(_CAUSAL, length=4096)
_LONG_ALL = dataclasses.replace(_LONG, causal=False)
_VIT = Setting(batch=8, heads=3, head_dim=64, length=197, causal=False)
_VIT_LONG = Setting(batch=1, heads=3, head_dim=64, length=1024, causal=False)

_SPAN = "max_span=1024, span_init=0.0625, softness=32"
_CONVNN = "K=9, num_heads=3, use_bias=False"
_NEURAL = "neural(projection_dim=2, use_bias=False)"
_SPATIAL = f"{_CONVNN}, sampling_type='spatial', num_samples=32"

TARGETS: dict[str, Target] = {
    "neural": KernelTarget(15, 50, mechanism="neural(projection_dim=2)", setting=_CAUSAL),
    "span": KernelTarget(6, 20, mechanism=f"adaptive_span({_SPAN})", setting=_CAUSAL),
    "span_wave": KernelTarget(20, 40, mechanism=f"adaptive_span({_SPAN}, periodic=True)", setting=_CAUSAL),
    "convnn": KernelTarget(2, 4, mechanism=f"convnn({_CONVNN})", setting=_VIT),
    "convnn_1024": KernelTarget(1, 4, mechanism=f"convnn({_CONVNN})", setting=_VIT_LONG),
    "convnn_spatial": KernelTarget(2, 4, mechanism=f"convnn({_SPATIAL})", setting=_VIT),
    "kvt": KernelTarget(1, 8, mechanism="kvt(topk=32)", setting=_VIT),
    "kvt_1024": KernelTarget(1, 8, mechanism="kvt(topk=32)", setting=_VIT_LONG),
    "local": KernelTarget(1, 1, mechanism="local(window_size=128)", setting=_LONG),
    "local_all": KernelTarget(1, 1, mechanism="local(window_size=128)", setting=_LONG_ALL),
    "neighborhood": KernelTarget(20, 50, mechanism="neighborhood(kernel_size=9)", setting=_LONG_ALL),
    "sparse": KernelTarget(20, 50, mechanism="sparse(mode='local', context=32)", setting=_LONG_ALL),
    "softmax": KernelTarget(0.7, 1, peer="torch_fused", mechanism="softmax", setting=_LONG),
    "vit_softmax": StepTarget(1.15, mechanism="softmax(use_bias=False)"),
    "vit_convnn": StepTarget(1.15, mechanism=f"convnn({_CONVNN})"),
    "vit_kvt": StepTarget(1.15, mechanism="kvt(topk=9, use_bias=False)"),
    "vit_local": StepTarget(1.15, mechanism="local(window_size=128, use_bias=False)"),
    "vit_neighborhood": StepTarget(1.15, mechanism="neighborhood(kernel_size=9, qkv_bias=False)"),
    "vit_sparse": StepTarget(1.15, mechanism="sparse(mode='all', use_bias=False)"),
    "vit_conv1d": StepTarget(1.15, mechanism="conv1d(kernel_size=9)"),
    "vit_branching_conv": StepTarget(1.15, mechanism="branching_conv(K=9, num_heads=3, kernel_size=9)"),
    "vit_branching_attention": StepTarget(1.15, mechanism="branching_attention(K=9, num_heads=3)"),
    "language_model": StepTarget(2, 3, model="language_model", options=(f"model.layers=0:{_NEURAL}",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument(
        "--threads", type=int, default=2, help="cores that both sides use (default: %(default)s); 0 = all there are"
    )
    results.add_arguments(parser, repeats=9)


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, writes the JSON after every goal; returns 1 if one was missed.

    Raises:
      UserError: there is no such goal, or peers cannot be had.
    """
    results.check_arguments(args)
    names = list(TARGETS) if args.only is None else args.only
    for name in names:
        if name not in TARGETS:
            raise unknown("target", name, TARGETS)
    use_cores(args.threads)
    loaded = peers.load()
    console, rows = table.console(), []
    for number, name in enumerate(names, 1):
        console.print(f"[dim]{number} of {len(names)}: {name}[/dim]")
        rows += target_rows(name, TARGETS[name], loaded, args.repeats)
        if args.out:
            results.write(args.out, "targets", rows)
    table.show(console, "targets", rows)
    if args.out:
        console.print(f"written to {args.out}")
    return 0 if all(row["target"]["reached"] for row in rows if "target" in row) else 1


def target_rows(name: str, target: Target, loaded: Any, repeats: int) -> list[dict[str, Any]]:
    """Our row, with the goal and whether it is reached, and the peer's."""
    rows = measured_rows(target.makers(loaded), repeats, None)
    for row in rows:
        row["case"] = {"target": name} | row["case"]
        row.get("times_better_than", {}).pop("first", None)
    ours = rows[0]
    found = ours.get("times_better_than", {}).get(target.peer)
    reached = found is not None and found["speed"] >= target.speed
    if target.scratch is not None:
        reached = reached and found["scratch"] >= target.scratch
    ours["target"] = {"speed": target.speed, "scratch": target.scratch, "reached": reached}
    return rows


def use_cores(count: int) -> None:
    """Keeps this process to so many cores, and with it both libraries, which have not made their threads yet; 0 = all.

    Raises:
      UserError: the machine has fewer.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if not 0 <= count <= len(cores):
        raise UserError(f"--threads={count}: this process may use {len(cores)} cores, choose from 0 (all) to that")
    if count:
        os.sched_setaffinity(0, cores[:count])
