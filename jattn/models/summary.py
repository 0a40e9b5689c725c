"""What a model is and what it costs, as text: the file `model.txt` of a run."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn import core
from jattn.attention import Attention
from jattn.models.layers import TokenEmbedding
from jattn.models.transformer import Transformer
from jattn.task import Task
from jattn.types import PyTree


class _Observed:
    """What one abstract forward pass shows: FLOPs, and how each attention layer is computed."""

    def __init__(self):
        self.flops = 0
        self.attention: dict[str, str] = {}

    def intercept(self, call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """For `nn.intercept_methods`."""
        module, method = context.module, context.method_name
        result = call(*args, **kwargs)
        if isinstance(module, Attention) and method == "__call__" and not _inside_attention(module):
            batch, length, width = args[0].shape
            self.flops += module.cost(length, width=width, batch=batch).flops
            self.attention.setdefault("/".join(module.path), "computed by the mechanism itself")
        elif isinstance(module, Attention) and method == "report":
            inputs, q, k, _, terms, *_ = args
            keys = jax.tree.leaves((core.features(k), k))[0]
            head_dim = module.head_size(inputs.x.shape[-1])
            values = jax.ShapeDtypeStruct((*keys.shape[:3], head_dim), keys.dtype)
            choice = core.explain(q, k, values, **terms, implementation=module.implementation)
            self.attention["/".join(module.path)] = str(choice)
        elif isinstance(module, nn.Dense | nn.Conv) and method == "__call__" and not _inside_attention(module):
            fan_in = math.prod(nn.unbox(module.variables["params"]["kernel"]).shape[:-1])
            self.flops += result.size * (2 * fan_in + module.use_bias)
        elif isinstance(module, TokenEmbedding) and method == "attend":
            self.flops += result.size * 2 * module.width
        return result


def _inside_attention(module: nn.Module) -> bool:
    """Whether the layer, or mechanism, is part of a mechanism, whose `cost` counts it already."""
    parent = module.parent
    while isinstance(parent, nn.Module):
        if isinstance(parent, Attention):
            return True
        parent = parent.parent
    return False


def abstract_inputs(task: Task, batch_size: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of the task's inputs as a model takes them."""
    if task.kind == "image":
        return jax.ShapeDtypeStruct((batch_size, *task.image_shape), jnp.float32)
    return jax.ShapeDtypeStruct((batch_size, task.length), jnp.int32)


def forward_flops(model: Transformer, task: Task) -> int:
    """Floating-point operations of one example's forward pass, by formula: matrix products and attention.

    As XLA counts them (a multiply-add is two, masked pairs included); norms, activations and residuals, which are a
    few percent, are not.
    """
    return size(model, task)[1]


def size(model: Transformer, task: Task) -> tuple[int, int]:
    """Parameters, and floating-point operations of one example's forward pass as `forward_flops` counts them."""
    observed, params = _observe(model, task, batch_size=1)
    return count(params), observed.flops


def _observe(model: Transformer, task: Task, batch_size: int) -> tuple[_Observed, PyTree]:
    """One abstract forward pass; nothing is computed. Also the shapes of the parameters, unboxed."""
    model = model.clone(remat="none")
    observed = _Observed()
    with nn.intercept_methods(observed.intercept):
        variables = jax.eval_shape(model.init, jax.random.key(0), abstract_inputs(task, batch_size))
    return observed, nn.unbox(variables["params"])


def count(params: PyTree) -> int:
    """Scalars in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def summary(model: Transformer, task: Task, batch_size: int = 1) -> str:
    """Layers and parameters, FLOPs of a forward pass, and which implementation computes each attention and why.

    batch_size: of the step whose implementation of attention is explained.
    """
    model = model.clone(decode=False)
    observed, params = _observe(model, task, batch_size)
    rows = [(name, _described(model, name), f"{count(params[name]):,}") for name in _in_order(params)]
    rows.append(("total", "", f"{count(params):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines = [
        f"{type(model).__name__}: width {model.width}, depth {model.depth}, {model.num_heads} heads, "
        f"positions {model.positions}, {model.norm_position}-norm, {jnp.dtype(model.dtype).name}",
        "",
        *table,
        "",
        f"forward pass of one example: {_engineering(observed.flops // batch_size)}FLOP "
        "(matrix products and attention, masked pairs included)",
        "",
        *_grouped(observed.attention),
    ]
    return "\n".join(lines) + "\n"


def _in_order(params: PyTree) -> list[str]:
    """Embeddings, blocks by number, output."""

    last = ("norm_output", "head", "output")

    def key(name: str) -> tuple[int, int, str]:
        if name.startswith("block_"):
            return 1, int(name.removeprefix("block_")), name
        return (2, last.index(name), name) if name in last else (0, 0, name)

    return sorted(params, key=key)


def _described(model: Transformer, name: str) -> str:
    """A block's mechanism and its options."""
    if not name.startswith("block_"):
        return ""
    return str(model.mechanisms()[int(name.removeprefix("block_"))])


def _grouped(attention: dict[str, str]) -> list[str]:
    """Layers with the same explanation on one line."""
    by_text: dict[str, list[str]] = {}
    for path, text in attention.items():
        by_text.setdefault(text, []).append(path.split("/")[0])
    return [f"{', '.join(blocks)}: {text}" for text, blocks in by_text.items()]


def _engineering(number: int) -> str:
    """1234567 -> "1.23 M"."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number} "
