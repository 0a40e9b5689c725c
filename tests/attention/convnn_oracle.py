"""The equation of ConvNN attention in NumPy float64, token by token."""

from typing import NamedTuple

import jax
import numpy as np


class Expected(NamedTuple):
    y: np.ndarray
    weights: np.ndarray
    similarities: list  # (b, t, |similarity|) of every candidate pair

    def energy(self, real):
        return np.mean([value for b, t, value in self.similarities if real[b, t]] or [0.0])


def oracle(module, params, x, context, allowed, chosen, lengths, *, crossed):
    """What the default computes.

    allowed: bool (B, H, T, S); chosen: candidates, None = all tokens; lengths: of the keys' sequences.
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)

    def project(name, tokens):
        heads = np.einsum("btc,chd->bhtd", tokens, params[name]["kernel"])
        return heads + params[name]["bias"][:, None] if module.use_bias else heads

    k, q, v = project("key", x), project("query", context), project("value", context)
    batch, heads, count, head_dim = k.shape
    weights = np.zeros((batch, heads, count, q.shape[2]))
    merged, similarities = np.zeros((batch, count, heads, head_dim)), []
    maps = rank_maps(module, params["conv"])
    for b, h, t in np.ndindex(batch, heads, count):
        own_length = count if crossed else lengths[b]
        slots = range(q.shape[2]) if chosen is None else chosen
        own = chosen is not None and not crossed
        near = []
        for s in slots:
            if allowed[b, h, t, s] and not (own and s == t):
                key, query = k[b, h, t], q[b, h, s]
                if module.coordinate_encoding:
                    key = np.append(key, 2 * t / (own_length - 1) - 1)
                    query = np.append(query, 2 * s / (lengths[b] - 1) - 1)
                near.append((similarity(module, key, query, head_dim), s))
                similarities.append((b, t, abs(near[-1][0])))
        near = sorted(near, key=lambda pair: -pair[0])[: module.K - own]
        if own and allowed[b, h, t, t]:
            near.insert(0, (-1.0 if module.magnitude_type == "euclidean" else 1.0, t))
        elif own:
            near.insert(0, None)
        present = np.array([pair[0] for pair in near if pair is not None])
        if module.softmax_topk_val:
            present = np.exp(present) / np.exp(present).sum()
        elif module.magnitude_type == "euclidean":
            present = 1 / (1e-8 - present)
        values, out = iter(present), np.zeros(head_dim)
        for rank, pair in enumerate(near):
            if pair is None:
                continue
            weight, s = next(values), pair[1]
            value = v[b, h, s]
            if module.coordinate_encoding and module.convolution_type != "depthwise":
                value = np.append(value, 2 * s / (lengths[b] - 1) - 1)
            out += weight * value @ maps[rank]
            weights[b, h, t, s] += weight * norm(module, maps[rank])
        merged[b, t, h] = out
    y = np.einsum("bthd,hdc->btc", merged, params["out"]["kernel"]) + (
        params["out"]["bias"] if module.use_bias else 0.0
    )
    return Expected(y, weights, similarities)


def similarity(module, key, query, head_dim):
    """Nearness: the larger the nearer."""
    if module.magnitude_type == "matmul":
        return key @ query / np.sqrt(head_dim)
    if module.magnitude_type == "cosine":
        return key @ query / np.linalg.norm(key) / np.linalg.norm(query)
    return -np.linalg.norm(key - query)


def rank_maps(module, conv):
    """The matrices C_r, from features to outputs."""
    if module.convolution_type == "standard":
        return conv["kernel"]
    maps = [np.diag(row) for row in conv["kernel"]]
    return maps if module.convolution_type == "depthwise" else [each @ conv["pointwise"] for each in maps]


def norm(module, matrix):
    return np.sqrt(np.sum(matrix**2))
