"""Logits of transformers' GPT-2 and of timm's ViT with random weights, against ours after reading what they save."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jattn import models
from jattn.interop import gpt2, timm_vit

TOKENS = np.array([[3, 0, 18, 18, 7, 11, 2], [5, 5, 1, 0, 9, 17, 4]])
REASON = "needs the packages of requirements-bench.txt, of which this one is missing: "


def package(name):
    # Not only ImportError: a torchvision that was built for another torch raises what it likes.
    return pytest.importorskip(name, reason=REASON + name, exc_type=ImportError)


def moved(torch, model, seed=0):
    """The model with every parameter random, biases and scales too, which begin as zeros and ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def logits(found, inputs):
    return models.build(found.model, found.task).apply({"params": found.params}, jnp.asarray(inputs))


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_of_transformers(tmp_path, tied):
    torch, transformers = package("torch"), package("transformers")
    sizes = {"vocab_size": 19, "n_positions": 11, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 20}
    config = transformers.GPT2Config(**sizes, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0)
    theirs = moved(torch, transformers.GPT2LMHeadModel(config))
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(torch.as_tensor(TOKENS)).logits.numpy()
    found = gpt2.read(tmp_path)
    assert found.model.tie_embeddings == tied
    np.testing.assert_allclose(logits(found, TOKENS), expected, rtol=1e-4, atol=1e-4)


OPTIONS = {
    "class token": {},
    "mean of patches": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "class token without a place, no biases of queries": {"no_embed_class": True, "qkv_bias": False},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_vit_of_timm(tmp_path, case):
    torch = package("torch")
    package("timm")
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 6, "patch_size": 2, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 7}
    theirs = moved(torch, VisionTransformer(**sizes, mlp_ratio=5 / 3, **OPTIONS[case]))
    save_file({name: x.numpy() for name, x in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    pictures = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.as_tensor(pictures).permute(0, 3, 1, 2)).numpy()
    found = timm_vit.read(tmp_path, num_heads=3)
    np.testing.assert_allclose(logits(found, pictures), expected, rtol=1e-4, atol=1e-4)
