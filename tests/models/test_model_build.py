import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jattn.config import AttentionConfig, ModelConfig
from jattn.errors import UserError
from jattn.models import MODELS, LanguageModel, TextClassifier, VisionTransformer, build
from jattn.task import Task

LANGUAGE = Task("language", vocab_size=11, length=7)
TEXT = Task("text", vocab_size=11, num_classes=3, length=7)
IMAGE = Task("image", num_classes=3, image_shape=(4, 6, 1))
TASKS = {"language_model": LANGUAGE, "text_classifier": TEXT, "vision_transformer": IMAGE}


def config(name="language_model", **options):
    return ModelConfig(**({"name": name, "width": 8, "depth": 2, "num_heads": 2, "patch_size": 4} | options))


def test_every_model_is_built_and_runs():
    assert set(MODELS) == set(TASKS)
    inputs = {
        "language": jnp.ones((2, 7), jnp.int32),
        "text": jnp.ones((2, 7), jnp.int32),
        "image": jnp.ones((2, 4, 6, 1)),
    }
    shapes = {"language": (2, 7, 11), "text": (2, 3), "image": (2, 3)}
    for name, task in TASKS.items():
        options = {"patch_size": 2} if task.kind == "image" else {}
        model = build(config(name, **options), task)
        assert type(model) is MODELS[name]
        y, _ = jax.eval_shape(lambda m=model, x=inputs[task.kind]: m.init_with_output(jax.random.key(0), x))
        assert (y.shape, y.dtype) == (shapes[task.kind], jnp.float32)


def test_every_option_reaches_the_model():
    options = {
        "width": 12, "depth": 3, "num_heads": 3, "mlp_dim": 20, "activation": "relu", "norm_position": "post",
        "norm_epsilon": 1e-5, "norm_bias": False, "final_norm": True, "embedding_norm": True, "use_bias": False,
        "positions": "sinusoidal", "embedding_scale": 2.5, "max_length": 9, "dropout_rate": 0.1,
        "embedding_dropout_rate": 0.3, "attention_dropout_rate": 0.2, "mlp_dropout_rate": 0.5, "remat": "block",
        "dtype": "bfloat16", "implementation": "dense",
    }  # fmt: skip
    shared = {"tie_embeddings": True, "causal": False} | options
    model = build(config(**shared), LANGUAGE)
    assert {name: getattr(model, name) for name in shared} == shared
    assert (model.vocab_size, model.decode) == (11, False)
    head = {"pooling": "class_token", "class_token_std": 0.7, "head_hidden_dim": 6, "head_dropout_rate": 0.4}
    classifier = head | {"padding_token": 3} | options
    model = build(config("text_classifier", **classifier), TEXT, num_outputs=1)
    assert {name: getattr(model, name) for name in classifier} == classifier
    assert (model.vocab_size, model.num_outputs, model.causal) == (11, 1, False)
    vit = head | {"patch_size": 2} | options
    model = build(config("vision_transformer", **vit), IMAGE)
    assert {name: getattr(model, name) for name in vit} == vit
    given = {"name", "attention", "layers", "pattern", "initialization"} | set(shared) | set(classifier) | set(vit)
    assert given == {field.name for field in dataclasses.fields(ModelConfig)}


def test_defaults_are_the_configs():
    direct = (
        LanguageModel(vocab_size=11, max_length=7),
        TextClassifier(vocab_size=11, num_outputs=3, max_length=7),
        VisionTransformer(num_outputs=3, max_length=2),
    )
    tasks = (LANGUAGE, TEXT, Task("image", num_classes=3, image_shape=(4, 8, 1)))
    for model, name, task in zip(direct, MODELS, tasks, strict=True):
        built = build(ModelConfig(name=name), task)
        assert dataclasses.replace(built, attention=model.attention) == model
        assert set(built.attention) == {model.attention}


def test_the_length_is_what_the_data_needs():
    assert build(config(), LANGUAGE).max_length == 7
    assert build(config("text_classifier"), TEXT).max_length == 7
    assert build(config("text_classifier", pooling="class_token"), TEXT).max_length == 8
    assert build(config("vision_transformer", patch_size=2), IMAGE).max_length == 6
    assert build(config("vision_transformer", patch_size=2, pooling="class_token"), IMAGE).max_length == 7
    assert build(config(max_length=100), LANGUAGE).max_length == 100


def options_of(model):
    return [dict(mechanism.options) for mechanism in model.mechanisms()]


def test_layers_and_patterns_mix_mechanisms():
    attention = AttentionConfig("softmax", "qk_norm=True")
    model = build(config(depth=4, attention=attention, layers="1:softmax(num_key_heads=1), 3:softmax"), LANGUAGE)
    assert options_of(model) == [{"qk_norm": True}, {"num_key_heads": 1}, {"qk_norm": True}, {}]
    model = build(config(depth=3, pattern="softmax(scale=0.5), softmax", positions="rotary"), LANGUAGE)
    assert options_of(model) == [{"scale": 0.5, "rotary": True}, {"rotary": True}, {"scale": 0.5, "rotary": True}]


def test_decode_is_passed_on():
    model = build(config(), LANGUAGE, decode=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 7), jnp.int32))
    assert variables["cache"]["block_1"]["attention"]["cached_key"].shape == (2, 2, 7, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "languge_model"}, "unknown model 'languge_model': did you mean 'language_model'"),
        ({"name": "vision_transformer"}, "takes image data, but the data set's kind is 'language'.*'language_model'"),
        ({"num_heads": 3}, r"num_heads 3 does not divide width 8 in layer 0 \(softmax\)"),
        ({"layers": "1:softmax(num_heads=5)"}, r"num_heads 5 does not divide width 8 in layer 1 \(softmax\)"),
        ({"num_heads": 0}, "num_heads is 0: choose a number of at least 1"),
        ({"width": 0}, "width is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"mlp_dim": -4}, "mlp_dim is -4"),
        ({"max_length": 0}, "max_length 0 is shorter than"),
        ({"max_length": 6}, "max_length 6 is shorter than the data's longest example of 7 tokens.* at least 7"),
        ({"activation": "glu"}, "unknown activation 'glu': did you mean 'gelu'"),
        ({"positions": "rotatory"}, "unknown positions 'rotatory': did you mean 'rotary'"),
        ({"norm_position": "before"}, "unknown norm_position 'before':.* known: post, pre"),
        ({"remat": "blocks"}, "unknown remat 'blocks': did you mean 'block'"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat': did you mean 'bfloat16'"),
        ({"dtype": "int32"}, "unknown dtype 'int32'"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0: choose a share from 0 to below 1"),
        ({"attention_dropout_rate": -0.1}, "attention_dropout_rate is -0.1"),
        ({"embedding_dropout_rate": 1.5}, "embedding_dropout_rate is 1.5"),
        (
            {"implementation": "dense", "attention": AttentionConfig("conv1d")},
            "implementation 'dense' does nothing: conv1d know one way",
        ),
        ({"implementation": "blokwise"}, "unknown attention implementation 'blokwise': did you mean 'blockwise'"),
        ({"layers": "2:softmax"}, "layer 2 .*layers 0 to 1"),
        ({"layers": "1:sofmax"}, "unknown mechanism 'sofmax': did you mean 'softmax'"),
        ({"attention": AttentionConfig("softmax", "num_keyheads=1")}, "did you mean 'num_key_heads'"),
        ({"attention": AttentionConfig("softmax", "causal=False")}, "option causal .* set by the model"),
        ({"pattern": "softmax, softmax, softmax"}, "pattern .* has 3 layers, the model 2"),
        ({"pooling": "class_token"}, "option pooling='class_token' does nothing in model 'language_model'"),
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong(options, message):
    with pytest.raises(UserError, match=message):
        build(config(**({"patch_size": ModelConfig.patch_size} | options)), LANGUAGE)


def test_what_a_user_of_a_classifier_can_get_wrong():
    with pytest.raises(UserError, match="patch_size 4 does not divide pictures of 4 x 6 pixels"):
        build(config("vision_transformer"), IMAGE)
    with pytest.raises(UserError, match=r"max_length 6 .* 6 patches and a class token: .* at least 7"):
        build(config("vision_transformer", patch_size=2, pooling="class_token", max_length=6), IMAGE)
    with pytest.raises(UserError, match="unknown pooling 'max'"):
        build(config("text_classifier", pooling="max"), TEXT)
    with pytest.raises(UserError, match="tie_embeddings=True does nothing in model 'text_classifier'"):
        build(config("text_classifier", tie_embeddings=True), TEXT)
    with pytest.raises(UserError, match="decode=True generates token by token, which model 'text_classifier'"):
        build(config("text_classifier"), TEXT, decode=True)


def test_a_mechanism_for_each_layer():
    layers = build(config(), LANGUAGE).attention
    with pytest.raises(UserError, match="attention names 2 mechanisms for a model of depth 3"):
        LanguageModel(vocab_size=11, width=8, depth=3, num_heads=2, attention=layers)
