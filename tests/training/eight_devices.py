"""Trains on 1, 2, 4 and 8 of eight forced host devices: `python -m tests.training.eight_devices FOLDER`.

Writes arrays.npz (case/parameter path -> array after five steps) and facts.json (case -> what else is to be known)
into the folder. One process for all cases: starting JAX takes longer than most of them.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.commands import QUICK_TO_COMPILE  # before jax, which reads XLA's flags once

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK_TO_COMPILE}"

# isort: split
import jax
import numpy as np

from jattn import data, models
from jattn.config import Config
from jattn.optim.build import build as build_optimizer
from jattn.optim.parameters import path_name
from jattn.training import attention_log, parallel
from tests.training.made_up import Data, Mixed, Model, batch

STEPS = 5


def config(strategy, num_data, num_model, accumulation_steps=1, dropout_rate=0.0):
    cfg = Config(steps=STEPS)
    cfg.parallel.strategy, cfg.parallel.data, cfg.parallel.model = strategy, num_data, num_model
    cfg.data.batch_size = 16
    model = cfg.model
    model.width, model.depth, model.num_heads, model.mlp_dim, model.patch_size = 16, 1, 2, 24, 4
    model.dropout_rate = model.attention_dropout_rate = dropout_rate
    optim = cfg.optim
    # With Adam's usual epsilon the sign of a gradient of 1e-9, which is rounding, decides a step of full size.
    optim.name, optim.learning_rate, optim.epsilon, optim.weight_decay = "adamw", 1e-2, 1e-3, 0.1
    optim.clip_norm, optim.ema_decay, optim.accumulation_steps = 1.0, 0.9, accumulation_steps
    return cfg


def run(steps, batches, state, traces=(), look=None):
    """Five steps; all arrays of the state after them, and facts about the run."""
    facts = {"shards": _by_path(state, lambda x: list(x.addressable_shards[0].data.shape)), "losses": []}
    for n, train_batch in enumerate(batches):
        before, (state, metrics) = state, steps.train_step(state, train_batch)
        facts["losses"].append(float(metrics["loss"][0] / metrics["loss"][1]))
        facts["donated"] = all(x.is_deleted() for x in jax.tree.leaves(before))
        facts["evaluated"] = jax.tree.map(float, steps.eval_step(state.ema, batches[0]))
        if n == 0:
            traced = len(traces)
    facts["attention"] = None if look is None else look(state.ema)
    facts["retraced"] = len(traces) - traced
    facts["as_announced"] = all(
        x.sharding.is_equivalent_to(y.sharding, x.ndim) and x.shape == y.shape and x.dtype == y.dtype
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(steps.abstract_state), strict=True)
    )
    return _by_path(state, np.asarray), facts


def _by_path(state, function):
    return {path_name(path): function(x) for path, x in jax.tree.leaves_with_path(state)}


def vision_transformer(strategy, num_data, num_model, dropout_rate):
    cfg = config(strategy, num_data, num_model, dropout_rate=dropout_rate)
    dataset = data.build(cfg.data)
    model = models.build(cfg.model, dataset.task)
    steps = parallel.build(cfg, model, build_optimizer(cfg.optim, STEPS), dataset)
    batches = [data.train_batch(dataset, cfg.seed, n, cfg.data.batch_size) for n in range(STEPS)]
    # Under jit, tests/training/test_processes.py looks at the attention of a run that is divided.
    built = SimpleNamespace(config=cfg, dataset=dataset, model=model, parallel=steps)
    look = attention_log.build(built) if strategy == "pmap" else None
    return run(steps, batches, begun(steps), look=look)


def begun(steps):
    """A state before the first step, where the strategy wants it. The initial one takes long to compile."""
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), steps.abstract_state)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), state.params)
    shardings = jax.tree.map(lambda x: x.sharding, steps.abstract_state)
    return jax.device_put(state.replace(params=params, ema=params), shardings)


def made_up(strategy, num_data, num_model, accumulation_steps, dataset=None, *, initial=False, moved=False):
    """initial: begin with what `init_state` makes. moved: count what the compiled step moves between devices."""
    cfg = config(strategy, num_data, num_model, accumulation_steps)
    traces = []
    model = Model(regularizer=0.01, on_trace=lambda: traces.append(1))
    steps = parallel.build(cfg, model, build_optimizer(cfg.optim, STEPS), dataset or Data())
    batches = [batch(n) for n in range(STEPS)]
    arrays, facts = run(steps, batches, steps.init_state() if initial else begun(steps), traces)
    if moved:
        program = steps.lower_train_step("cpu").compile().as_text()
        facts["moves"] = sum(program.count(f" {name}(") for name in ("all-to-all", "collective-permute", "all-gather"))
        facts["sums"] = program.count(" all-reduce(")
    return arrays, facts


CASES = {
    "vit jit 1": lambda: vision_transformer("jit", 1, 1, 0.2),
    "vit jit 2": lambda: vision_transformer("jit", 2, 1, 0.2),
    "vit jit 8": lambda: vision_transformer("jit", 8, 1, 0.2),
    "vit jit 4x2": lambda: vision_transformer("jit", 4, 2, 0.2),
    "vit pmap 1": lambda: vision_transformer("pmap", 1, 1, 0.0),
    "vit pmap 2": lambda: vision_transformer("pmap", 2, 1, 0.0),
    "vit pmap 8": lambda: vision_transformer("pmap", 8, 1, 0.0),
    "made up jit 1": lambda: made_up("jit", 1, 1, 1, initial=True),
    "made up jit 2 in 4": lambda: made_up("jit", 2, 1, 4, initial=True, moved=True),
    "made up jit 2x2 in 2": lambda: made_up("jit", 2, 2, 2, initial=True),
    "mixed jit 1 in 2": lambda: made_up("jit", 1, 1, 2, Mixed()),
    "mixed pmap 4 in 2": lambda: made_up("pmap", 4, 1, 2, Mixed()),
}


def main(folder: Path) -> None:
    arrays, facts = {}, {}
    for case, make in CASES.items():
        of_case, facts[case] = make()
        arrays |= {f"{case}/{name}": x for name, x in of_case.items()}
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main(Path(sys.argv[1]))
