"""Reads a model of another library and writes it as the folder of a run.

  python -m jattn import gpt2 ~/models/gpt2 --out runs/gpt2
  python -m jattn import vit vit_small.safetensors --set data.path=/data/imagenet

PATH is a .safetensors file, a folder that has model.safetensors, or a name on the Hugging Face hub after `hf download`.
What is written can be trained further (configs/finetune.py), with another mechanism in any layer, and evaluated.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import jattn
from jattn import cli
from jattn.config import Config, OptimConfig
from jattn.errors import UserError
from jattn.interop import gpt2, tensors, timm_vit
from jattn.interop.foreign import Foreign, check_fit
from jattn.models.summary import count
from jattn.optim.build import build as build_optimizer
from jattn.training.checkpoint import Checkpoints
from jattn.training.run import explained, keep_files, store_config
from jattn.training.state import TrainState

KINDS: dict[str, Callable[[Path, int | None], Foreign]] = {"gpt2": gpt2.read, "vit": timm_vit.read}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("kind", choices=KINDS, help="gpt2: Hugging Face's layout; vit: timm's")
    parser.add_argument("path", metavar="PATH", help="file or folder of safetensors, or a name on the hub")
    parser.add_argument("--out", metavar="FOLDER", help="where it is written (default: runs/KIND)")
    parser.add_argument("--num-heads", type=int, metavar="N", help="where config.json does not say it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="data.NAME=VALUE", help="which data it is to be evaluated on"
    )


def run(args: argparse.Namespace) -> None:
    """Reads, writes, and says what can be done with it.

    Raises:
      UserError: the model cannot be read, or the folder not be written to.
    """
    folder = Path(args.out or f"runs/{args.kind}")
    found = KINDS[args.kind](tensors.find(args.path), args.num_heads)
    config = write(found, folder, args.set)
    model = config.model
    print(
        f"{found.title}: width {model.width}, depth {model.depth}, {model.num_heads} heads, "
        f"{count(found.params):,} parameters, written to {folder}"
    )
    for note in found.notes:
        print(f"note: {note}")
    data = (
        f"{config.data.name}, {config.data.path or 'where it is usually kept; --set data.path=... says another place'}"
    )
    print(f"data:      {data}")
    print(f"evaluate:  python eval.py --workdir={folder}")
    if model.name == "language_model":
        print(f"generate:  python -m jattn generate --workdir={folder} --prompt='...'")
    print(f"train on:  python train.py --config=configs/finetune.py:{folder}")
    print("           with --config.model.layers='0:neural' for another mechanism in layer 0; or without configs/ by")
    print(f"           --config.init_from={folder} and the model's options in {folder}/config.json")


def write(found: Foreign, folder: Path, overrides: list[str] = ()) -> Config:
    """Writes a model as a run that has not made a step: its config, its parameters and the files that it needs.

    Args:
      found: the model.
      folder: of the run; new or empty.
      overrides: `data.NAME=VALUE`: options of the data that the run's config gets.

    Returns:
      The run's config.

    Raises:
      UserError: the tensors do not fit together, an option is wrong, or the folder cannot be used.
    """
    check_fit(found)
    for override in overrides:
        if not (override.startswith("data.") and "=" in override):
            raise UserError(f"--set {override}: write data.NAME=VALUE, such as --set data.path=/data/imagenet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name another one with --out, or remove it")
    data = found.data
    if data.tokenizer in found.files:
        data = dataclasses.replace(data, tokenizer=str(folder.absolute() / data.tokenizer))
    # Of all optimizers this one has the smallest state, which checkpoints hold.
    config = Config(steps=1, model=found.model, data=data, optim=OptimConfig(name="sgd", momentum=0.0))
    config = cli.overridden(config, [f"--config.{override}" for override in overrides])
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), found.params)
    state = TrainState.create(params, build_optimizer(config.optim, total_steps=1).tx, with_ema=False)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, warn=print)
        info = {"examples": 0, "config": dataclasses.asdict(config), "jattn": jattn.__version__}
        checkpoints.save(0, state, info, None)
        checkpoints.close()
        keep_files(folder, found.files, replace=True)
        store_config(folder, config)  # last: what has none is no run
    return config
