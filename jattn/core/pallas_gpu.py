"""Attention by blocks as fused kernels for NVIDIA GPUs: O(T) memory; score, bias and mask are traced inside.

One program of a kernel has one block of one head's queries, and runs over the blocks of keys within that head's reach
(Dao et al. 2022, 2023). Backward there are two: one like it for the gradients of queries and parameters, and one whose
programs have a block of keys, for the gradients of keys and values. Nothing is added atomically, so results repeat bit
for bit: each program writes its own part of the parameters' gradients, and the parts are summed afterwards.

The kernels are written in Pallas and compiled by Triton. Where there is no GPU they can be interpreted, which is slow,
and meant for tests.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend.core import ClosedJaxpr

from jattn.core import blocks
from jattn.core.block_sizes import BlockSizes, Sizes, sizes_for
from jattn.core.call import Call, group
from jattn.core.choice import Request
from jattn.core.derivatives import never_differentiated, reverse_mode_only
from jattn.core.evaluable import LARGEST, looked_up, objection
from jattn.core.operands import Layout, spec
from jattn.core.powers_of_two import evaluate, evaluate_by_row, filled
from jattn.core.tiles import HEAD, KEY, LOG2E, QUERY, Parts, Untraceable, backward_tile, forward_tile, parts_of
from jattn.types import Array, Float


def pallas_gpu(
    call: Call, sizes: Sizes | None = None, interpret: bool | None = None
) -> tuple[Float[Array, "B H T E"], Float[Array, "B H T"]]:
    """Attention without the (T, S) matrix, in one kernel forward and two backward.

    sizes: of blocks, None takes those of `sizes_for`. interpret: None interprets where there is no GPU.
    """
    leaves, parts = parts_of(call)
    sizes = sizes_for(parts) if sizes is None else sizes
    interpret = jax.default_backend() != "gpu" if interpret is None else interpret
    plan = Plan(parts, call.heads, sizes, interpret)
    smooth, rest = plan.divide(leaves)
    out, lse = _attention(plan, [reverse_mode_only(leaf) for leaf in smooth], [*rest, *_bounds_by_head(call)])
    return call.ungroup(out), call.ungroup(lse)


def pallas_gpu_cannot(request: Request) -> str | None:
    """Why the kernels cannot serve a request, or None if they can."""
    on_gpu, interpreted = request.platform in ("gpu", "cuda"), request.platform == "cpu"
    if not on_gpu and not (interpreted and request.named == "pallas_gpu"):
        return "it needs an NVIDIA GPU"
    if on_gpu and not _is_ampere_or_later(getattr(jax.local_devices()[0], "compute_capability", "8.0")):
        return "it needs an NVIDIA GPU of compute capability 8.0 or more"
    if not request.queries or not request.keys or not 0 < request.v.shape[-1] <= LARGEST:
        return f"it needs queries and keys, and values of 1 to {LARGEST} features"
    leaves = jax.tree.leaves((request.q, request.k, request.v, request.score, request.bias, request.mask))
    wide = {jnp.result_type(leaf) for leaf in leaves} - set(map(jnp.dtype, _TYPES))
    if wide:
        return f"it takes float32, bfloat16, float16, 32-bit integers and booleans, not {', '.join(map(str, wide))}"
    try:
        return _objection(request)
    except Untraceable as reason:
        return str(reason)


def _is_ampere_or_later(capability: str) -> bool:
    """Whether Triton compiles for it; an AMD GPU's is a name."""
    major = str(capability).partition(".")[0]
    return major.isdecimal() and int(major) >= 8


_TYPES = "float32", "bfloat16", "float16", "int32", "uint32", "bool"


def _objection(request: Request) -> str | None:
    """What of the call's score, bias and mask the kernels cannot compute, found by tracing them."""
    reasons = []

    def trace(*arguments: Any) -> None:
        _, parts = parts_of(group(*arguments, jnp.arange(request.batch), jnp.arange(request.heads)))
        sizes = sizes_for(parts)
        reasons.append(objection(forward_tile(parts, sizes.forward.t, sizes.forward.s)))
        for size, of_keys in ((sizes.queries, False), (sizes.keys, True)):
            reasons.append(objection(backward_tile(parts, size.t, size.s, of_keys)))

    r = request
    jax.eval_shape(trace, r.q, r.k, r.v, r.score, r.bias, r.mask, r.offset, r.dropout)
    return next(filter(None, reasons), None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is static of a call's kernels."""

    parts: Parts
    heads: tuple[int, int, int]
    sizes: Sizes
    interpret: bool

    def divide(self, leaves: list) -> tuple[list, list]:
        """The leaves that have gradients, and the others."""
        pairs = list(zip(leaves, self.parts.learned, strict=True))
        return [leaf for leaf, yes in pairs if yes], [leaf for leaf, yes in pairs if not yes]

    def join(self, smooth: list, rest: list) -> list:
        """The leaves in their order."""
        sources = {True: iter(smooth), False: iter(rest)}
        return [next(sources[learned]) for learned in self.parts.learned]

    def grid(self, size: BlockSizes) -> blocks.Grid:
        """Blocks of these sizes."""
        return blocks.Grid(self.parts.queries, self.parts.keys, size.t, size.s)

    def parameters(self, size: BlockSizes) -> dict[str, Any]:
        """Arguments of `pallas_call` for blocks of these sizes."""
        compiler = triton.CompilerParams(num_warps=size.warps, num_stages=size.stages)
        return {"interpret": self.interpret, "compiler_params": compiler}


def _bounds_by_head(call: Call) -> tuple[Array, Array, Array]:
    """Offset, and the least and largest lag that can matter to each head, each (1 or H)."""
    lo, hi = (jnp.atleast_1d(end) for end in blocks.whole_lags(call.reach()))
    return jax.lax.stop_gradient((call.offset, lo, hi))


def _visited(plan: Plan, size: BlockSizes, bounds: list[Array], of_keys: bool) -> Array:
    """First and one past the last block that each program visits: (1, K|1, G|1, programs, 2)."""
    g, (offset, lo, hi) = plan.grid(size), bounds
    count, visited = (g.key_blocks, blocks.query_blocks_of) if of_keys else (g.query_blocks, blocks.key_blocks_of)

    def of_head(lo: Array, hi: Array) -> Array:
        return jnp.stack(jax.vmap(lambda index: visited(g, index, offset, (lo, hi)))(jnp.arange(count)), -1)

    found = jax.vmap(of_head)(*jnp.broadcast_arrays(lo, hi)).astype(jnp.int32)
    return found.reshape(1, *(plan.heads[1:] if found.shape[0] > 1 else (1, 1)), count, 2)


def _heaviest_first(programs: int, of_keys: bool) -> Callable:
    """The block of a program: causal, the last queries have most to do, and the first keys; a GPU begins with these."""
    return lambda i: i if of_keys else programs - 1 - i


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, smooth: list, rest: list) -> tuple[Array, Array]:
    return _forward(plan, smooth, rest)[0]


def _forward(plan: Plan, smooth: list, rest: list) -> tuple[tuple[Array, Array], Any]:
    *others, offset, lo, hi = rest
    size, g = plan.sizes.forward, plan.grid(plan.sizes.forward)
    tile = forward_tile(plan.parts, size.t, size.s)
    layout = Layout(plan.parts, size.t, size.s, looked_up(tile))
    arrays = layout.arrays(plan.join([never_differentiated(leaf) for leaf in smooth], others), plan.heads)
    bounds = _visited(plan, size, [offset, lo, hi], of_keys=False)
    (features,) = plan.parts.per_head[plan.parts.values]
    value_type, rows = plan.parts.dtypes[plan.parts.values], g.query_blocks * size.t
    own = _heaviest_first(g.query_blocks, of_keys=False)
    shapes = [
        jax.ShapeDtypeStruct((*plan.heads, rows, filled(features)), value_type),
        jax.ShapeDtypeStruct((*plan.heads, rows), jnp.float32),
    ]
    kernel = pl.pallas_call(
        functools.partial(_forward_kernel, tile=tile, layout=layout, own=own),
        grid=(g.query_blocks, *reversed(plan.heads)),
        in_specs=[*map(spec, arrays), spec(bounds)],
        out_specs=[spec(shapes[0], (size.t, filled(features)), own), spec(shapes[1], (size.t,), own)],
        out_shape=shapes,
        name="attention",
        **plan.parameters(size),
    )
    # Under `jit`, since a remat policy that keeps the output can leave out a function, but not a kernel.
    out, lse = jax.jit(kernel)(*arrays, bounds)
    out, lse = out[:, :, :, : plan.parts.queries, :features], lse[:, :, :, : plan.parts.queries]
    # Named inside the custom derivative, so that a remat policy can keep them and the kernel is not run again.
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return (out, lse), (smooth, rest, out, lse)


def _forward_kernel(*refs: Any, tile: ClosedJaxpr, layout: Layout, own: Callable) -> None:
    *refs, bounds, out_ref, lse_ref = refs
    i = own(pl.program_id(0))
    fixed = layout.read(refs, HEAD) | layout.read(refs, QUERY, i)

    def key_block(j: Array, carry: tuple) -> tuple:
        leaves = fixed | layout.read(refs, KEY, j)
        ordered = [leaves[index] for index in range(len(leaves))]
        return tuple(evaluate(tile, *ordered, i * layout.t, j * layout.s, *carry))

    zeros = jnp.zeros(layout.t, jnp.float32)
    carry = jnp.zeros(out_ref.shape, jnp.float32), zeros - jnp.inf, zeros
    acc, largest, total = jax.lax.fori_loop(bounds[i, 0], bounds[i, 1], key_block, carry)
    some = jnp.where(total > 0, total, 1.0)
    out_ref[...] = (acc / some[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(total > 0, (largest + jnp.log2(some)) * (1 / LOG2E), -jnp.inf)


def _backward(plan: Plan, residuals: Any, cotangents: tuple[Array, Array]) -> tuple[list, None]:
    smooth, rest, out, lse = residuals
    d_out, d_lse = map(never_differentiated, cotangents)
    *others, offset, lo, hi = rest
    leaves, bounds = plan.join([never_differentiated(leaf) for leaf in smooth], others), [offset, lo, hi]
    delta = jnp.einsum("bkgte,bkgte->bkgt", d_out, out, preferred_element_type=jnp.float32) - d_lse
    # Weights of rows without keys are exp(-inf) = 0.
    lse = jnp.where(lse == -jnp.inf, jnp.inf, lse * LOG2E)
    found = _gradients(plan, plan.sizes.queries, leaves, bounds, (d_out, delta, lse), of_keys=False)
    found |= _gradients(plan, plan.sizes.keys, leaves, bounds, (d_out, delta, lse), of_keys=True)
    gradients, _ = plan.divide([found.get(index) for index in range(len(leaves))])
    return gradients, None


_attention.defvjp(_forward, _backward)


def _gradients(
    plan: Plan, size: BlockSizes, leaves: list, bounds: list, rows: tuple[Array, Array, Array], of_keys: bool
) -> dict[int, Array]:
    """Gradients of keys' leaves, or else of those of head and queries, by position of the leaf."""
    parts, g = plan.parts, plan.grid(size)
    tile = backward_tile(parts, size.t, size.s, of_keys)
    layout = Layout(parts, size.t, size.s, looked_up(tile))
    arrays = [*layout.arrays(leaves, plan.heads), *layout.rows(*rows)]
    visited = _visited(plan, size, bounds, of_keys)
    programs = g.key_blocks if of_keys else g.query_blocks
    outputs, out_blocks = zip(*layout.outputs(leaves, plan.heads, programs, of_keys), strict=True)
    own = _heaviest_first(programs, of_keys)
    written = pl.pallas_call(
        functools.partial(_backward_kernel, tile=tile, layout=layout, of_keys=of_keys, own=own, inputs=len(arrays)),
        grid=(programs, *reversed(plan.heads)),
        in_specs=[*map(spec, arrays), spec(visited)],
        out_specs=[spec(output, block, own) for output, block in zip(outputs, out_blocks, strict=True)],
        out_shape=outputs,
        name="attention_gradient_of_keys" if of_keys else "attention_gradient_of_queries",
        **plan.parameters(size),
    )(*arrays, visited)
    return layout.collected(written, leaves, of_keys)


def _backward_kernel(*refs: Any, tile: ClosedJaxpr, layout: Layout, of_keys: bool, own: Callable, inputs: int) -> None:
    leaf_refs, row_refs = refs[: inputs - 3], refs[inputs - 3 : inputs]
    bounds, outputs, block = refs[inputs], refs[inputs + 1 :], own(pl.program_id(0))

    def queries(i: Array) -> tuple[dict, list]:
        return layout.read(leaf_refs, QUERY, i), [layout.read_rows(ref, i) for ref in row_refs]

    def keys(j: Array) -> tuple[dict, list]:
        return layout.read(leaf_refs, KEY, j), []

    of_own, of_others = (keys, queries) if of_keys else (queries, keys)
    own_leaves, own_rows = of_own(block)
    own_leaves |= layout.read(leaf_refs, HEAD)

    def other_block(other: Array, totals: list) -> list:
        other_leaves, other_rows = of_others(other)
        leaves = own_leaves | other_leaves
        i, j = (other, block) if of_keys else (block, other)
        ordered = [leaves[index] for index in range(len(leaves))]
        places = i * layout.t, j * layout.s
        new = evaluate_by_row(tile, *ordered, *places, *own_rows, *other_rows, rows=layout.t)
        return [total + part for total, part in zip(totals, new, strict=True)]

    totals = jax.lax.fori_loop(bounds[block, 0], bounds[block, 1], other_block, layout.sums(of_keys))
    layout.write(outputs, totals, of_keys)
