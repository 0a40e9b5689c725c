import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jattn.attention import MECHANISMS, Attention, Cost
from jattn.config import ModelConfig
from jattn.models import build, summary
from jattn.models.summary import abstract_inputs, forward_flops
from jattn.task import Task

TASKS = {
    "language_model": Task("language", vocab_size=256, length=32),
    "text_classifier": Task("text", vocab_size=11, num_classes=3, length=32),
    "vision_transformer": Task("image", num_classes=3, image_shape=(16, 24, 3)),
}


@pytest.mark.parametrize("name", TASKS)
def test_flops_are_nearly_what_xla_counts(name):
    """XLA also counts norms, activations and residuals, a few percent at this width."""
    model = build(ModelConfig(name=name, width=256, depth=2, implementation="dense"), TASKS[name])
    inputs = abstract_inputs(TASKS[name], 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    counted = jax.jit(model.apply).lower({"params": variables["params"]}, inputs).cost_analysis()["flops"]
    assert 0.93 < forward_flops(model, TASKS[name]) / counted < 1.0


def test_a_tied_output_layer_costs_as_much_as_its_own():
    task = TASKS["language_model"]
    tied, own = (
        forward_flops(build(ModelConfig(name="language_model", width=16, depth=1, tie_embeddings=tie), task), task)
        for tie in (True, False)
    )
    assert own - tied == 32 * 256  # the bias


class DenseInside(Attention):
    """A mechanism that mixes no tokens, of a layer that flax counts and its own formula does too."""

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, context: None = None, deterministic: bool = True
    ) -> jax.Array:
        return nn.Dense(x.shape[-1], name="inside")(x)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> Cost:
        return Cost(params=0, flops=1000 * batch, bytes=0)


def test_layers_inside_a_mechanism_are_counted_by_its_formula_alone(monkeypatch):
    task = TASKS["language_model"]
    monkeypatch.setitem(MECHANISMS, "dense_inside", DenseInside)
    model = build(ModelConfig(name="language_model", width=16, depth=3, pattern="dense_inside"), task)
    mlp, output = 32 * (2 * 2 * 16 * 64 + 64 + 16), 32 * (2 * 16 * 256 + 256)
    assert forward_flops(model, task) == 3 * (1000 + mlp) + output
    text = summary(model, task, batch_size=4)
    assert f"{forward_flops(model, task) / 1e3:.3g} kFLOP" in text
    assert text.splitlines()[-1] == "block_0, block_1, block_2: computed by the mechanism itself"


def test_the_text_names_every_layer_its_mechanism_and_the_implementation():
    task = TASKS["language_model"]
    config = ModelConfig(
        name="language_model", width=32, depth=2, num_heads=4, layers="1:softmax(num_key_heads=2)", positions="none"
    )
    lines = summary(build(config, task), task, batch_size=8).splitlines()
    assert lines[0].startswith("LanguageModel: width 32, depth 2, 4 heads")
    parameters = {line.split()[0]: (line.split()[1:-1], line.split()[-1]) for line in lines[2:8]}
    attention, mlp, norms = 4 * (32 * 32 + 32), 32 * 128 * 2 + 128 + 32, 2 * 2 * 32
    counts = {
        "token_embedding": 256 * 32,
        "block_0": attention + mlp + norms,
        "block_1": attention - 2 * (32 * 16 + 16) + mlp + norms,
        "norm_output": 64,
        "output": 256 * 32 + 256,
    }
    assert parameters == {
        "token_embedding": ([], f"{counts['token_embedding']:,}"),
        "block_0": (["softmax"], f"{counts['block_0']:,}"),
        "block_1": (["softmax(num_key_heads=2)"], f"{counts['block_1']:,}"),
        "norm_output": ([], f"{counts['norm_output']:,}"),
        "output": ([], f"{counts['output']:,}"),
        "total": ([], f"{sum(counts.values()):,}"),
    }
    assert lines[-1].startswith("block_0, block_1: attention by ")


def test_the_named_implementation_is_explained():
    task = TASKS["language_model"]
    config = ModelConfig(name="language_model", width=16, depth=1, implementation="blockwise")
    last = summary(build(config, task, decode=True), task).splitlines()[-1]
    assert last.startswith("block_0: attention by blockwise (not pallas_gpu: it needs an NVIDIA GPU; ")
    assert "; not dense: blockwise was asked for; " in last


def test_inputs_of_each_kind():
    assert abstract_inputs(TASKS["language_model"], 5) == jax.ShapeDtypeStruct((5, 32), jnp.int32)
    assert abstract_inputs(TASKS["vision_transformer"], 5) == jax.ShapeDtypeStruct((5, 16, 24, 3), jnp.float32)
