"""`python -m jattn bench gpu --out FILE`: the fused attention kernels on an NVIDIA GPU, in a few minutes.

Correctness against dense attention in float32; time of a training step's attention, forward and backward, beside
cuDNN's dot-product attention (and PyTorch's, where it is installed with CUDA), candidates in turn; neural attention at
growing lengths; and a sweep of block sizes, for the table in `jattn/core/block_sizes.py`. What a GPU cannot run (a
block that does not fit its memory, say) is a row with the reason.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jattn.bench import results
from jattn.bench.timing import Timing, interleaved
from jattn.core import MLP, Causal, Dot, Dropout, Segments, SoftSpan, TriangleWave, attend
from jattn.core.block_sizes import BlockSizes, Sizes, sizes_for
from jattn.core.call import group
from jattn.core.pallas_gpu import pallas_gpu
from jattn.core.tiles import parts_of
from jattn.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes of what is measured: batch, heads, features of a head, tokens; lengths, tokens in all, rounds."""

    batch: int = 8
    heads: int = 8
    head_dim: int = 64
    tokens: int = 4096
    checked_tokens: int = 499
    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)
    repeats: int = 20
    sweep: tuple[tuple[int, int, int, int], ...] = tuple(
        (t, s, warps, stages)
        for t, s in itertools.product((32, 64, 128), repeat=2)
        for warps in (4, 8)
        for stages in (2,)
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    results.add_arguments(parser, repeats=20)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Measures, prints tables, writes the JSON.

    Raises:
      UserError: JAX sees no GPU, or there is no such part.
    """
    names = [name.strip() for name in args.parts.split(",")]
    for name in names:
        if name not in PARTS:
            raise unknown("part of the benchmark", name, PARTS)
    if jax.default_backend() != "gpu":
        raise UserError(
            f"bench gpu needs an NVIDIA GPU and JAX for CUDA (`pip install jattn[cuda]`); JAX found only "
            f"{jax.devices()[0].device_kind}"
        )
    results.check_arguments(args)
    setting, console, rows = Setting(repeats=args.repeats), Console(), []
    for name in names:
        found = []
        for row in PARTS[name](setting):
            found.append(row)
            rows.append({"part": name} | row)
            if args.out:  # row by row: a later one may break off
                results.write(args.out, "gpu", rows, setting=dataclasses.asdict(setting))
        console.print(table(name, found))
    if args.out:
        console.print(f"written to {args.out}")


def table(name: str, rows: list[dict]) -> Table:
    """Rows, as they are shown."""
    shown = Table(title=name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(_text(row.get(column, "")) for column in columns))
    return shown


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:120]


def inputs(
    kind: str, *, batch: int, heads: int, tokens: int, head_dim: int, dtype: Any, key_heads: int | None = None
) -> dict[str, Any]:
    """A causal call of `attend`, of one of `KINDS`."""
    keys, key_heads = iter(jax.random.split(jax.random.key(0), 64)), key_heads or heads

    def normal(*shape: int, of: Any = dtype) -> jax.Array:
        return jax.random.normal(next(keys), shape, of)

    call: dict[str, Any] = {"v": normal(batch, key_heads, tokens, head_dim), "bias": Causal()}
    if kind.startswith("neural"):
        sizes = [int(size) for size in kind.split()[1].split("-")]
        layers = list(zip(sizes, (*sizes[1:], 1), strict=True))
        call["score"] = MLP.of(
            [normal(heads, *layer, of=jnp.float32) for layer in layers],
            [normal(heads, o, of=jnp.float32) for _, o in layers],
        )
        call["q"] = tuple(normal(batch, heads, tokens) for _ in range(sizes[0]))
        call["k"] = tuple(normal(batch, key_heads, tokens) for _ in range(sizes[0]))
        return call
    call["q"], call["k"] = normal(batch, heads, tokens, head_dim), normal(batch, key_heads, tokens, head_dim)
    if kind.startswith("span"):
        call["bias"] = Causal() + SoftSpan(jnp.full(heads, float(kind.split()[1])))
    if kind == "wave":
        call["bias"] = (
            Causal() + SoftSpan(jnp.full(heads, 99.5)) + TriangleWave(jnp.full(heads, 17.3), jnp.full(heads, 0.1))
        )
    if kind == "segments":
        segment = jnp.broadcast_to(jnp.arange(tokens) // 97, (batch, 1, tokens))
        call["q"], call["k"] = ({"features": call[name], "segment": segment} for name in "qk")
        call["mask"] = Segments()
    if kind == "dropout":
        call["dropout"] = Dropout(0.1, jnp.uint32(7))
    return call


KINDS = ("dot", "neural 2-2", "neural 5-4-3", "span 100", "wave", "segments", "dropout")


def step(call: dict[str, Any], implementation: str | None, sizes: Sizes | None = None) -> Callable[[], Any]:
    """Output and gradients of a call, compiled; forward alone where there is nothing to differentiate."""
    fixed = {name: call[name] for name in ("mask", "dropout") if name in call}
    learned = {name: part for name, part in call.items() if name not in fixed}

    def forward(learned: dict) -> tuple:
        if sizes is None:
            return attend(**learned, **fixed, implementation=implementation)
        return pallas_gpu(grouped({**learned, **fixed}), sizes=sizes)

    def both(learned: dict, cotangent: jax.Array) -> tuple:
        (out, lse), pull = jax.vjp(forward, learned)
        gradients = pull((cotangent.astype(out.dtype), jnp.zeros_like(lse)))
        return out, lse, [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]

    out, _ = jax.eval_shape(forward, learned)
    cotangent = jax.random.normal(jax.random.key(1), out.shape, jnp.float32)
    return functools.partial(jax.jit(both).lower(learned, cotangent).compile(), learned, cotangent)


def grouped(call: dict[str, Any]) -> Any:
    """A call in the form that implementations work on."""
    whole = {"score": Dot(), "mask": None, "dropout": None, "offset": 0, **call}
    heads = max(leaf.shape[1] for leaf in jax.tree.leaves(call["q"]))
    return group(**whole, example=jnp.arange(call["v"].shape[0]), head=jnp.arange(heads))


def correctness(setting: Setting) -> Iterator[dict]:
    """Largest errors against dense attention in float32, relative to the largest number of an array, at least 1."""
    cases = [(kind, jnp.float32, 64, 4) for kind in KINDS]
    cases += [("dot", jnp.float32, 80, 2), ("dot", jnp.bfloat16, 64, 2), ("neural 2-2", jnp.bfloat16, 64, 4)]
    cases += [("dot", jnp.float16, 128, 4), ("dot", jnp.bfloat16, 256, 4), ("span 100", jnp.bfloat16, 64, 4)]
    for kind, dtype, head_dim, key_heads in cases:
        row = {"kind": kind, "dtype": jnp.dtype(dtype).name, "head_dim": head_dim, "key_heads": key_heads}
        size = {"batch": 2, "heads": 4, "tokens": setting.checked_tokens, "head_dim": head_dim, "key_heads": key_heads}
        call = inputs(kind, dtype=dtype, **size)
        exact = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == dtype else x, call)  # noqa: B023
        with jax.default_matmul_precision("float32"):
            try:
                found, expected = step(call, "pallas_gpu")(), step(exact, "dense")()
            except Exception as error:  # whatever a GPU or its compiler raises
                yield row | {"error": _sentence(error)}
                continue
        errors = [_relative(x, y) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)]
        yield row | {"value": max(errors[:2]), "gradient": max(errors[2:])}


def _relative(x: Any, y: Any) -> float:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(np.abs(x - y).max() / max(np.abs(y).max(), 1.0))


def targets(setting: Setting) -> Iterator[dict]:
    """Time of forward and backward, beside cuDNN's dot-product attention."""
    size = {"batch": setting.batch, "heads": setting.heads, "tokens": setting.tokens, "head_dim": setting.head_dim}
    candidates = {
        "dot, cudnn": lambda: _cudnn(inputs("dot", dtype=jnp.bfloat16, **size)),
        **{
            f"{kind}, pallas_gpu": functools.partial(_of, kind, "pallas_gpu", size)
            for kind in ("dot", "neural 2-2", "span 256")
        },
        "neural 2-2, blockwise": functools.partial(_of, "neural 2-2", "blockwise", size),
        "dot, torch sdpa": lambda: _torch(size, flexible=False),
        "dot, torch flex": lambda: _torch(size, flexible=True),
    }
    yield from timed(candidates, setting.repeats)


def _of(kind: str, implementation: str, size: dict[str, int]) -> Callable[[], Any]:
    return step(inputs(kind, dtype=jnp.bfloat16, **size), implementation)


def timed(candidates: dict[str, Callable[[], Callable]], repeats: int) -> Iterator[dict]:
    """A row for each candidate that can be made and run; ratios are to the first of these."""
    made, failed = {}, {}
    for name, make in candidates.items():
        try:
            made[name] = make()
            jax.block_until_ready(made[name]())
        except Exception as error:  # whatever a GPU or its compiler raises
            failed[name] = _sentence(error)
            made.pop(name, None)
    timings = interleaved(made, repeats) if made else {}
    first = next(iter(timings.values()), None)
    for name in candidates:
        yield {"candidate": name, **({"error": failed[name]} if name in failed else _times(timings[name], first))}


def _times(timing: Timing, first: Timing) -> dict[str, Any]:
    ratio, low, high = timing.ratio_to(first)
    return {
        "milliseconds": timing.median * 1e3,
        "quartiles": [seconds * 1e3 for seconds in timing.quartiles],
        "of_first": ratio,
        "of_first_quartiles": [low, high],
    }


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}"[:300]


def _cudnn(call: dict[str, Any]) -> Callable[[], Any]:
    q, k, v = (call[name].swapaxes(1, 2) for name in "qkv")

    def both(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> tuple:
        attention = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
        out, pull = jax.vjp(attention, q, k, v)
        return out, pull(cotangent)

    cotangent = jax.random.normal(jax.random.key(1), q.shape, q.dtype)
    return functools.partial(jax.jit(both).lower(q, k, v, cotangent).compile(), q, k, v, cotangent)


def _torch(size: dict[str, int], flexible: bool) -> Callable[[], Any]:
    import torch  # not a dependency: measured where it is installed

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
    shape = size["batch"], size["heads"], size["tokens"], size["head_dim"]
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    cotangent = torch.randn_like(q)
    if flexible:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask = create_block_mask(lambda b, h, t, s: t >= s, None, None, shape[2], shape[2])
        attention = functools.partial(torch.compile(flex_attention), block_mask=mask)
    else:
        attention = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)

    def both() -> None:
        torch.autograd.grad(attention(q, k, v), (q, k, v), cotangent)
        torch.cuda.synchronize()

    return both


def lengths(setting: Setting) -> Iterator[dict]:
    """Neural attention at growing lengths, of equally many tokens in all."""
    for tokens in setting.lengths:
        batch = max(1, setting.batch * setting.tokens // tokens)
        size = {"batch": batch, "heads": setting.heads, "tokens": tokens, "head_dim": setting.head_dim}
        candidates = {
            name: functools.partial(_of, "neural 2-2", name, size)
            for name in ("pallas_gpu", *(("blockwise",) if tokens <= setting.tokens else ()))
        }
        for row in timed(candidates, max(3, setting.repeats // 4)):
            yield {"tokens": tokens, "batch": batch, **row}


def sweep(setting: Setting) -> Iterator[dict]:
    """Block sizes of one kernel at a time, the others as they are now; time of forward and backward."""
    for kind, head_dim in (("dot", 64), ("dot", 128), ("neural 2-2", 64)):
        size = {"batch": setting.batch, "heads": setting.heads, "tokens": setting.tokens, "head_dim": head_dim}
        call = inputs(kind, dtype=jnp.bfloat16, **size)
        now = sizes_for(parts_of(grouped(call))[1])
        for kernel in ("forward", "queries", "keys"):
            candidates = {"now": functools.partial(step, call, None, now)}
            for block in setting.sweep:
                sizes = dataclasses.replace(now, **{kernel: BlockSizes(*block)})
                candidates["-".join(map(str, block))] = functools.partial(step, call, None, sizes)
            for row in timed(candidates, max(3, setting.repeats // 4)):
                yield {"kind": kind, "head_dim": head_dim, "kernel": kernel, **row}


PARTS: dict[str, Callable[[Setting], Iterator[dict]]] = {
    "correctness": correctness,
    "targets": targets,
    "lengths": lengths,
    "sweep": sweep,
}
