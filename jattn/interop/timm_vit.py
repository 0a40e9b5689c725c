"""Vision Transformers of timm (R. Wightman, PyTorch Image Models) as a `VisionTransformer`.

Names are those of `timm.models.VisionTransformer`'s state_dict. It has a class token, or takes the mean of all patches
after its last norm; what else timm has (registers, a distillation token, layer scale, a norm after pooling) is refused.
"""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jattn.config import DataConfig, ModelConfig
from jattn.errors import UserError
from jattn.interop import tensors
from jattn.interop.foreign import Foreign, Names, check_heads
from jattn.interop.original.rules import layer_norm, linear
from jattn.interop.tensors import Tensors
from jattn.task import Task
from jattn.types import Array

BLOCK = Names("blocks.{}.", qkv="attn.qkv", out="attn.proj", norms=("norm1", "norm2"), mlp=("mlp.fc1", "mlp.fc2"))
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Width -> heads of the published models: ViT-Ti, S, B, L, H (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021,
table 1), g and G (Zhai et al. 2022, table 2)."""


def read(place: Path, num_heads: int | None = None) -> Foreign:
    """The model in a .safetensors file or a folder; a `config.json` beside it says how pictures are normalised.

    Args:
      place: of the tensors.
      num_heads: None = those of the published model of this width.

    Raises:
      UserError: it is another model, or one that ours cannot express.
    """
    settings = tensors.settings(place)
    found = tensors.read(place)
    depth = BLOCK.depth(found)
    expected = {*_outside(), *BLOCK.tensors(max(depth, 1))}
    optional = {"cls_token", "head.weight", "head.bias", *(name for name in expected if name.endswith("qkv.bias"))}
    tensors.check_names(found, expected - (optional - set(found)), "ViT of timm", place)
    pooling = "class_token" if "cls_token" in found else "mean"
    theirs = settings.get("global_pool", "token")
    if theirs != "token" and pooling == "class_token":
        raise UserError(f"{place} has a class token but pools by {theirs!r}: jattn pools by one or the other")
    width, channels, patch_size, _ = found["patch_embed.proj.weight"].shape
    heads = num_heads or HEADS.get(width)
    if heads is None:
        raise UserError(
            f"{place} has the width {width}, which no published ViT has, and tensors do not tell how many heads "
            "there are: give their number with --num-heads"
        )
    check_heads(heads, width)
    found = _completed(found, pooling, place)
    side = math.isqrt(found["pos_embed"].shape[1] - (pooling == "class_token"))
    num_classes = len(found["head.bias"]) if "head.bias" in found else None
    pictures, notes = _pictures(settings, side * patch_size)
    if not num_heads:
        notes.append(f"{heads} heads, as the published models of width {width} have: --num-heads")
    if num_classes is None:
        notes.append("it has no classifier: init_from begins with a new one")
    return Foreign(
        title="ViT of timm",
        model=ModelConfig(
            name="vision_transformer",
            width=width,
            depth=depth,
            num_heads=heads,
            mlp_dim=found["blocks.0.mlp.fc1.bias"].shape[0],
            pooling=pooling,
            patch_size=patch_size,
        ),
        task=Task(
            kind="image", num_classes=num_classes or 1, image_shape=(side * patch_size, side * patch_size, channels)
        ),
        data=DataConfig(name="imagenet" if num_classes == 1000 else "image_folder", source="folder", options=pictures),
        params=_params(found, heads),
        files={},
        notes=notes,
    )


def _outside() -> list[str]:
    """The names of what is outside of the blocks."""
    linears = [f"{part}.{kind}" for part in ("patch_embed.proj", "norm", "head") for kind in ("weight", "bias")]
    return ["cls_token", "pos_embed", *linears]


def _completed(found: Tensors, pooling: str, place: Path) -> dict[str, Array]:
    """With zeros for biases of queries, keys and values that are not there, and for the place of a class token that
    has none.

    Raises:
      UserError: the positions are not those of a square.
    """
    found = dict(found)
    for name in [name for name in found if name.endswith("qkv.weight")]:
        found.setdefault(name.replace("weight", "bias"), jnp.zeros(len(found[name])))
    rows = found["pos_embed"].shape[1]
    if pooling == "class_token" and _is_square(rows):
        found["pos_embed"] = jnp.pad(found["pos_embed"], ((0, 0), (1, 0), (0, 0)))
    elif not _is_square(rows - (pooling == "class_token")):
        raise UserError(f"{place} has {rows} positions, which are not those of a square picture")
    return found


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _params(found: Tensors, heads: int) -> dict[str, Any]:
    params = {
        "patch_embedding": {
            "projection": {
                "kernel": found["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
                "bias": found["patch_embed.proj.bias"],
            }
        },
        "position_embedding": {"embedding": found["pos_embed"][0]},
        **BLOCK.blocks(found, heads),
        "norm_output": layer_norm(found, "norm"),
    }
    if "cls_token" in found:
        params["class_token"] = found["cls_token"].reshape(-1)
    if "head.bias" in found:
        params["head"] = {"output": linear(found, "head")}
    return params


def _pictures(settings: dict, size: int) -> tuple[str, list[str]]:
    """Options of the data set: how pictures are brought to size and normalised; and what to tell the user."""
    given = settings.get("pretrained_cfg", {})
    mean, std = (tuple(given.get(name, (0.5, 0.5, 0.5))) for name in ("mean", "std"))
    # timm brings the shorter side to size / crop_pct and takes the middle.
    stored = math.floor(size / given.get("crop_pct", 0.875))
    notes = [] if given else ["without a config.json, pictures are normalised by mean and std 0.5"]
    return f"image_size={size}, stored_size={stored}, mean={mean}, std={std}", notes
