"""Small random GPT-2s and ViTs under the names of transformers and timm, and what they compute, in float64."""

import math

import numpy as np


def gpt2_tensors(seed=0, vocab=19, length=11, width=12, depth=2, hidden=20):
    """Tensors under the names that the hub's files have: linear maps are (in, out)."""
    normal = _normal(seed)
    tensors = {"wte.weight": normal(vocab, width), "wpe.weight": normal(length, width)}
    for i in range(depth):
        tensors |= _norm(normal, f"h.{i}.ln_1", width) | _norm(normal, f"h.{i}.ln_2", width)
        shapes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        shapes |= {"mlp.c_fc": (width, hidden), "mlp.c_proj": (hidden, width)}
        for name, shape in shapes.items():
            tensors |= {f"h.{i}.{name}.weight": normal(*shape), f"h.{i}.{name}.bias": normal(shape[1])}
    return tensors | _norm(normal, "ln_f", width)


def gpt2_logits(tensors, tokens, heads, output=None, epsilon=1e-5):
    """Logits (T, V) of one text; output weights (V, C) are those of the embedding unless given."""
    t = {name: x.astype(np.float64) for name, x in tensors.items()}
    x = t["wte.weight"][tokens] + t["wpe.weight"][: len(tokens)]
    past = np.tril(np.ones((len(tokens), len(tokens)), bool))
    for i in range(_depth(t, "h.{}.ln_1.weight")):

        def linear(x, name, i=i):
            return x @ t[f"h.{i}.{name}.weight"] + t[f"h.{i}.{name}.bias"]

        h = linear(_layer_norm(t, f"h.{i}.ln_1", x, epsilon), "attn.c_attn")
        x = x + linear(_attention(h, heads, past), "attn.c_proj")
        h = linear(_layer_norm(t, f"h.{i}.ln_2", x, epsilon), "mlp.c_fc")
        h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, "mlp.c_proj")
    return _layer_norm(t, "ln_f", x, epsilon) @ (t["wte.weight"] if output is None else output.astype(np.float64)).T


def vit_tensors(seed=0, side=3, patch=2, width=12, depth=2, hidden=20, classes=7, class_token=True):
    """Tensors under timm's names: linear maps are (out, in)."""
    normal = _normal(seed)
    tensors = {"cls_token": normal(1, 1, width)} if class_token else {}
    tensors |= {"pos_embed": normal(1, side * side + class_token, width)}
    tensors |= {"patch_embed.proj.weight": normal(width, 3, patch, patch), "patch_embed.proj.bias": normal(width)}
    for i in range(depth):
        tensors |= _norm(normal, f"blocks.{i}.norm1", width) | _norm(normal, f"blocks.{i}.norm2", width)
        shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        shapes |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        for name, shape in shapes.items():
            tensors |= {f"blocks.{i}.{name}.weight": normal(*shape), f"blocks.{i}.{name}.bias": normal(shape[0])}
    head = {"head.weight": normal(classes, width), "head.bias": normal(classes)}
    return tensors | _norm(normal, "norm", width) | head


def vit_logits(tensors, picture, heads, epsilon=1e-6):
    """Logits of one picture (height, width, 3)."""
    t = {name: x.astype(np.float64) for name, x in tensors.items()}
    kernel = t["patch_embed.proj.weight"]
    p = kernel.shape[-1]
    rows, columns = picture.shape[0] // p, picture.shape[1] // p
    patches = [picture[r * p : (r + 1) * p, c * p : (c + 1) * p] for r in range(rows) for c in range(columns)]
    x = np.stack([np.einsum("hwc,kchw->k", patch, kernel) for patch in patches]) + t["patch_embed.proj.bias"]
    if "cls_token" in t:
        x = np.concatenate([t["cls_token"][0], x])
    x = x + t["pos_embed"][0]
    for i in range(_depth(t, "blocks.{}.norm1.weight")):

        def linear(x, name, i=i):
            return x @ t[f"blocks.{i}.{name}.weight"].T + t[f"blocks.{i}.{name}.bias"]

        h = linear(_layer_norm(t, f"blocks.{i}.norm1", x, epsilon), "attn.qkv")
        x = x + linear(_attention(h, heads, np.ones((len(x), len(x)), bool)), "attn.proj")
        h = linear(_layer_norm(t, f"blocks.{i}.norm2", x, epsilon), "mlp.fc1")
        h = 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = x + linear(h, "mlp.fc2")
    x = _layer_norm(t, "norm", x, epsilon)
    return (x[0] if "cls_token" in t else x.mean(axis=0)) @ t["head.weight"].T + t["head.bias"]


def _normal(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)


def _norm(normal, name, width):
    return {f"{name}.weight": 1 + normal(width), f"{name}.bias": normal(width)}


def _depth(tensors, name):
    return sum(name.format(i) in tensors for i in range(len(tensors)))


def _layer_norm(t, name, x, epsilon):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * t[f"{name}.weight"] + t[f"{name}.bias"]


def _attention(qkv, heads, allowed):
    q, k, v = (part.reshape(len(qkv), heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=-1))
    scores = np.where(allowed, q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).swapaxes(0, 1).reshape(len(qkv), -1)
