"""Trains with energies on 1, 2 and 4 of eight forced host devices: `python -m tests.optim.informed_devices FILE`.

Writes the state after three steps into an .npz: case/parameter path -> array. All three forms of `attention_informed`
are in one chain, between clipping and the learning rate; the run keeps an average of its parameters.
"""

import sys

from tests.training import eight_devices  # before jax: it forces the number of devices

# isort: split
import jax
import numpy as np
import optax

from jattn import data, models
from jattn.optim import attention_informed
from jattn.optim.build import Optimizer
from jattn.optim.parameters import path_name
from jattn.training import parallel

CASES = {
    "jit 1": ("jit", 1, 1, 1),
    "jit 2x2 in 2": ("jit", 2, 2, 2),
    "pmap 2 in 2": ("pmap", 2, 1, 2),
}


def optimizer() -> Optimizer:
    rate = optax.constant_schedule(1e-2)
    tx = optax.named_chain(
        ("clip", optax.clip_by_global_norm(1.0)),
        ("gradient", attention_informed(energy_scale=2.0)),
        ("precondition", optax.scale_by_adam(eps=1e-3)),
        ("update", attention_informed(energy_scale=2.0, placement="update")),
        ("paper", attention_informed(form="paper", gamma=3.0)),
        ("learning_rate", optax.scale_by_learning_rate(rate)),
    )
    return Optimizer(tx, rate, reads_energies=True, reads_attention_gradients=True)


START = []  # the initial state, of one device: it takes long to compile


def run(strategy, num_data, num_model, micro_batches):
    cfg = eight_devices.config(strategy, num_data, num_model, micro_batches)
    cfg.model.implementation = "dense"  # the least to compile: tests/core/test_sharding.py divides the other
    dataset = data.build(cfg.data)
    steps = parallel.build(cfg, models.build(cfg.model, dataset.task), optimizer(), dataset)
    if not START:
        START.append(jax.device_get(steps.init_state()))
    state = jax.device_put(START[0], jax.tree.map(lambda x: x.sharding, steps.abstract_state))
    for n in range(3):
        state, metrics = steps.train_step(state, data.train_batch(dataset, cfg.seed, n, cfg.data.batch_size))
    arrays = {path_name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(state)}
    return arrays | {"energy": np.asarray(metrics["energy"][0])}


def main(path: str) -> None:
    found = {f"{case}/{name}": x for case, options in CASES.items() for name, x in run(*options).items()}
    np.savez(path, **found)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main(sys.argv[1])
