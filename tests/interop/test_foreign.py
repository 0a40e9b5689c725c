"""Models of other libraries as ours: logits against NumPy in float64, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jattn import models
from jattn.errors import UserError
from jattn.interop import gpt2, tensors, timm_vit
from jattn.interop.foreign import check_fit
from tests import calls
from tests.interop.made import gpt2_logits, gpt2_tensors, vit_logits, vit_tensors

TOKENS = np.array([3, 0, 18, 18, 7, 11, 2])


def save(folder, content, name="model.safetensors", **settings):
    folder.mkdir(parents=True, exist_ok=True)
    # Transposed arrays are written as they lie in memory.
    save_file({key: np.ascontiguousarray(value) for key, value in content.items()}, folder / name)
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def logits(found, inputs):
    check_fit(found)
    model = models.build(found.model, found.task)
    return calls.apply(model, {"params": found.params}, inputs[None])[0]


@pytest.fixture(scope="module")
def gpt2_model():
    return gpt2_tensors()


@pytest.fixture(scope="module")
def vit_model():
    return vit_tensors()


def test_gpt2_with_the_prefix_of_the_class_with_a_head_and_old_constants(tmp_path, gpt2_model):
    content = {f"transformer.{name}": x for name, x in gpt2_model.items()}
    content |= {"transformer.h.1.attn.bias": np.ones((1, 1, 11, 11)), "lm_head.weight": gpt2_model["wte.weight"]}
    found = gpt2.read(save(tmp_path, content, n_head=3, layer_norm_epsilon=1e-5))
    assert (found.model.depth, found.model.mlp_dim, found.model.max_length) == (2, 20, 11)
    assert found.model.tie_embeddings
    np.testing.assert_allclose(logits(found, TOKENS), gpt2_logits(gpt2_model, TOKENS, 3), rtol=1e-4, atol=1e-4)


def test_gpt2_with_output_weights_of_its_own_in_two_files(tmp_path, gpt2_model):
    output = np.random.default_rng(1).normal(size=(19, 12)).astype(np.float32)
    content = gpt2_model | {"lm_head.weight": output}
    parts = [list(content)[::2], list(content)[1::2]]
    for number, names in enumerate(parts):
        save(tmp_path, {name: content[name] for name in names}, name=f"part-{number}.safetensors")
    index = {"weight_map": {name: f"part-{number}.safetensors" for number, names in enumerate(parts) for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = gpt2.read(tmp_path, num_heads=2)
    expected = gpt2_logits(gpt2_model, TOKENS, 2, output)
    np.testing.assert_allclose(logits(found, TOKENS), expected, rtol=1e-4, atol=1e-4)


def test_gpt2_of_half_precision_is_computed_in_float32(tmp_path, gpt2_model):
    rounded = {name: x.astype(jnp.bfloat16) for name, x in gpt2_model.items()}
    found = gpt2.read(save(tmp_path, rounded), num_heads=3)
    assert found.params["norm_output"]["scale"].dtype == np.float32
    expected = gpt2_logits(rounded, TOKENS, 3)
    np.testing.assert_allclose(logits(found, TOKENS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "mean"])
def test_vit_of_timm(tmp_path, class_token):
    content = vit_tensors(class_token=class_token)
    found = timm_vit.read(save(tmp_path, content), num_heads=3)
    picture = np.random.default_rng(2).normal(size=(6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(logits(found, picture), vit_logits(content, picture, 3), rtol=1e-4, atol=1e-4)


def test_vit_without_biases_of_queries_and_without_a_place_for_the_class_token(tmp_path, vit_model):
    content = {name: x for name, x in vit_model.items() if not name.endswith("qkv.bias")}
    content["pos_embed"] = content["pos_embed"][:, 1:]
    full = vit_model | {f"blocks.{i}.attn.qkv.bias": np.zeros(36) for i in range(2)}
    full["pos_embed"] = np.concatenate([np.zeros((1, 1, 12)), content["pos_embed"]], axis=1)
    found = timm_vit.read(save(tmp_path, content), num_heads=3)
    picture = np.random.default_rng(2).normal(size=(6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(logits(found, picture), vit_logits(full, picture, 3), rtol=1e-4, atol=1e-4)


def test_vit_takes_what_its_config_says_of_pictures(tmp_path, vit_model):
    given = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "crop_pct": 0.9}
    found = timm_vit.read(save(tmp_path, vit_model, global_pool="token", pretrained_cfg=given), num_heads=3)
    assert found.data.options == "image_size=6, stored_size=6, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)"
    assert found.data.name == "image_folder"


def test_vit_without_a_classifier_says_so(tmp_path, vit_model):
    content = {name: x for name, x in vit_model.items() if not name.startswith("head.")}
    found = timm_vit.read(save(tmp_path, content), num_heads=3)
    assert "head" not in found.params
    assert any("no classifier" in note for note in found.notes)


WRONG = {
    "another model": (gpt2.read, {"a.weight": np.ones(3)}, {}, r"no GPT-2 .*: it lacks .*h\.0"),
    "a part missing": (gpt2.read, gpt2_tensors() | {"ln_f.bias": None}, {}, r"lacks ln_f\.bias"),
    "a part too many": (timm_vit.read, vit_tensors() | {"blocks.0.ls1.gamma": np.ones(3)}, {}, r"no place.*ls1\.gamma"),
    "another activation": (gpt2.read, gpt2_tensors(), {"activation_function": "mish"}, r"'mish'.*gelu_new"),
    "scaled by layer": (gpt2.read, gpt2_tensors(), {"scale_attn_by_inverse_layer_idx": True}, r"=True, which a"),
    "heads": (gpt2.read, gpt2_tensors(), {"n_head": 5}, r"5 heads do not divide the width 12.*--num-heads"),
    "unknown heads": (timm_vit.read, vit_tensors(), {}, r"width 12.*--num-heads"),
    "other pooling": (timm_vit.read, vit_tensors(), {"global_pool": "avg"}, r"pools by 'avg'"),
    "not square": (timm_vit.read, vit_tensors(width=192) | {"pos_embed": np.ones((1, 7, 192))}, {}, r"7 positions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(tmp_path, case):
    read, content, settings, message = WRONG[case]
    content = {name: np.asarray(x, np.float32) for name, x in content.items() if x is not None}
    with pytest.raises(UserError, match=message):
        read(save(tmp_path, content, **settings))


def test_tensors_that_do_not_fit_together(tmp_path, gpt2_model):
    found = gpt2.read(save(tmp_path, gpt2_model | {"h.1.ln_2.bias": np.ones(13, np.float32)}), num_heads=3)
    with pytest.raises(UserError, match=r"block_1/norm_mlp/bias becomes \(13,\).*\(12,\)"):
        check_fit(found)


def test_files_that_cannot_be_read(tmp_path, gpt2_model):
    with pytest.raises(UserError, match=r"does not exist: give a \.safetensors file"):
        tensors.find(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"nobody/nothing.*`hf download nobody/nothing`"):
        tensors.find("nobody/nothing")
    with pytest.raises(UserError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        tensors.read(tmp_path)
    file = save(tmp_path, gpt2_model) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read as safetensors .*: get it again"):
        tensors.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no JSON"):
        tensors.settings(tmp_path)
