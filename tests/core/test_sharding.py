"""Attention over eight forced host devices: same numbers, and no reduction inside a loop."""

import os
import subprocess
import sys

from tests.commands import QUICK_TO_COMPILE

SCRIPT = """
import contextlib, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jattn.core import Causal, Dropout, attend
from tests.core.cases import Network, cast, fade, network

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
call = cast(network(heads=4, key_heads=2, queries=149, keys=149), jnp.float64)
score = call.pop("score")
call = jax.tree.map(lambda x: jnp.concatenate([x, x * 0.7, x - 0.2, -x]), call)

def loss(parameters, call, implementation):
    score, bias = parameters
    out, lse = attend(**call, score=score, bias=bias, dropout=Dropout(0.2, 7), implementation=implementation)
    return (out**2).sum() + jnp.sin(lse).sum()

run = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)

# Both axes divided, and the examples by the compiler, with a bias that makes a larger program, and is itself divided;
# the examples alone, of whose heads four devices cannot have as many each, and the heads alone, without one.
for shape, bias in (((4, 2), fade(4) + Causal()), ((8, 1), fade(4) + Causal()), ((2, 4), Causal()), ((1, 2), Causal())):
    parameters = score, bias
    expected = run(parameters, call, "dense")
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[: shape[0] * shape[1]])
    model = "model" if 2 % shape[1] == 0 else None
    placed = jax.device_put(call, NamedSharding(mesh, P("data", model)))
    # Without a mesh in sight the compiler divides the program by itself, from where its inputs lie.
    with contextlib.nullcontext() if shape == (8, 1) else jax.set_mesh(mesh):
        compiled = run.lower(parameters, placed, "blockwise").compile()
        found, text = compiled(parameters, placed), compiled.as_text()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-9, rtol=1e-9)
    bodies = set(re.findall(r"body=%?([\\w.-]+)", text))
    assert bodies
    computations = dict(re.findall(r"^%?([\\w.-]+) [^\\n]*\\{\\n(.*?)^\\}", text, re.M | re.S))
    def reachable(name, seen):
        if name not in seen and name in computations:
            seen.add(name)
            for other in re.findall(r"(?:body|condition|to_apply|calls)=%?([\\w.-]+)", computations[name]):
                reachable(other, seen)
    inside = set()
    for body in bodies:
        assert body in computations
        reachable(body, inside)
    reductions = re.compile(r"all-reduce|reduce-scatter|all-gather|all-to-all|collective")
    for name in inside:
        assert not reductions.search(computations[name]), (shape, name)
    divided = f"f64[{8 // shape[0]},{2 // shape[1] if model else 2},"
    assert any(divided in computations[name] for name in inside), (shape, divided)
    assert reductions.search(text), shape  # outside of loops there are some
    print("ok", shape)
"""


def test_eight_devices_compute_what_one_does_without_reductions_inside_loops():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{QUICK_TO_COMPILE} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split("\n")[:4] == ["ok (4, 2)", "ok (8, 1)", "ok (2, 4)", "ok (1, 2)"]
