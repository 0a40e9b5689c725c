"""`python -m jattn bench step`: the time and memory of whole training steps.

    python -m jattn bench step vit_tiny --mechanisms "softmax, kvt(topk=32)" --peers
    python -m jattn bench step language_model --set 'model.layers="0:neural"' --peers
    python -m jattn bench step configs/digits_vit.py --set data.batch_size=128

A step is forward, backward and the optimizer, as the trainer compiles it, on a batch that lies on the device. Models
are config files, or built in: vit_tiny (ViT-Tiny/16 at 224 pixels, batch 8) and language_model (8 layers, width 512,
1,024 tokens, batch 1), on random data.
"""

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax

from jattn import cli, data
from jattn.attention.mechanism import Mechanism, mechanism
from jattn.bench import peers, results, table, torch_calls
from jattn.bench.apart import apart
from jattn.bench.attention import CHOSEN, TRAIN_FLOPS, Case, measured_rows
from jattn.bench.candidate import Candidate, matmul_rate, program_memory
from jattn.bench.shapes import SHAPES, RandomData
from jattn.config import AttentionConfig, Config
from jattn.errors import UserError
from jattn.literals import parse_calls
from jattn.models.summary import forward_flops
from jattn.training import setup
from jattn.training.setup import Experiment
from jattn.training.step import make_train_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help=f"config files with :argument if they take one, or {_built_in()}"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option as train.py's --config.NAME=VALUE"
    )
    parser.add_argument(
        "--mechanisms", default="", help='in all layers, one row each: "softmax, local(window_size=64)" (default: the '
        "model's own)",
    )  # fmt: skip
    parser.add_argument("--peers", action="store_true", help="the released models in PyTorch, in the same run")
    results.add_arguments(parser, repeats=15)


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, writes the JSON.

    Raises:
      UserError: a config or an option is wrong.
    """
    results.check_arguments(args)
    loaded = peers.load() if args.peers else None
    mechanisms = [mechanism(*call) for call in parse_calls(args.mechanisms)] or [None]
    rows, rates = [], {}
    for name in args.models:
        makers: dict[Case, Callable[[], Candidate]] = {}
        for chosen in mechanisms:
            config = config_of(name, args.set)
            if chosen is not None:
                use(config, chosen)
            makers |= step_makers(name, config, chosen, loaded)
        dtype = config.model.dtype
        rates[dtype] = rates.get(dtype) or matmul_rate(dtype)
        rows += measured_rows(makers, args.repeats, rates[dtype])
    console = table.console()
    table.show(console, "training steps", rows)
    if args.out:
        results.write(args.out, "step", rows, matmul_flops_per_second=rates)
        console.print(f"written to {args.out}")


def config_of(name: str, overrides: list[str]) -> Config:
    """The config of a file or of a built-in model, with options overridden.

    Raises:
      UserError: there is no such file or model, or an option is wrong.
    """
    flags = [f"--config.{override}" for override in overrides]
    for override in overrides:
        if "=" not in override:
            raise UserError(f"--set {override}: write NAME=VALUE, such as --set model.width=128")
    if name in SHAPES:
        return cli.overridden(SHAPES[name].config(), flags)
    if not name.partition(":")[0].endswith(".py"):
        raise UserError(
            f"there is no model {name!r}: give a config file such as configs/digits_vit.py, or {_built_in()}"
        )
    return cli.parse_train(["bench", f"--config={name}", *flags]).config


def use(config: Config, chosen: Mechanism) -> None:
    """Puts a mechanism into all layers."""
    options = ", ".join(f"{option}={value!r}" for option, value in chosen.options)
    config.model.attention = AttentionConfig(chosen.name, options)
    config.model.layers = config.model.pattern = ""


def experiment(name: str, config: Config) -> Experiment:
    """What a config describes, on its own data or a built-in model's random data."""
    return setup.build(config, RandomData(SHAPES[name].task) if name in SHAPES else None)


def step_makers(
    name: str, config: Config, chosen: Mechanism | None, loaded: Any
) -> dict[Case, Callable[[], Candidate]]:
    """Our step, and its peer where there is one."""
    model = config.model
    layers = str(chosen) if chosen else model.layers or model.pattern or model.attention.name
    own = {"model": name, "mechanism": layers, "batch": config.data.batch_size, "dtype": model.dtype, "part": "step"}
    makers = {tuple((own | {"implementation": CHOSEN}).items()): lambda: BareStep(experiment(name, config)).candidate()}
    if loaded is None or name not in SHAPES:
        return makers
    try:
        _peer(loaded, name, config)
    except peers.NoPeer:
        return makers
    return makers | {tuple((own | {"implementation": "released"}).items()): lambda: apart(peer_step, name, config)}


def _peer(loaded: Any, name: str, config: Config) -> Any:
    """The released model of a built-in one."""
    return SHAPES[name].peer(loaded, config, experiment(name, config).model)


class BareStep:
    """The compiled step of an experiment on one device, with its state and one batch there."""

    def __init__(self, experiment: Experiment):
        config = experiment.config
        self._experiment = experiment
        self._batch = experiment.parallel.place(
            data.train_batch(experiment.dataset, config.seed, 0, config.data.batch_size)
        )
        self._state = experiment.parallel.init_state()
        dataset = experiment.dataset
        step = make_train_step(experiment.model, experiment.optimizer, config, dataset.prepare, mix=dataset.mix)
        self._step = jax.jit(step, donate_argnums=0).lower(self._state, self._batch).compile()

    def run(self) -> Any:
        """One step; returns what is to be waited for."""
        self._state, metrics = self._step(self._state, self._batch)
        return self._state, metrics

    def candidate(self) -> Candidate:
        """The step to be measured."""
        examples = self._experiment.config.data.batch_size
        flops = TRAIN_FLOPS * examples * forward_flops(self._experiment.model, self._experiment.dataset.task)
        return Candidate(self.run, *program_memory(self._step), flops=flops, items=examples)


def peer_step(name: str, config: Config) -> Candidate:
    """A training step of the released model on random data: forward, backward, AdamW."""
    model = _peer(peers.load(), name, config)
    torch = importlib.import_module("torch")
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    batch = data.train_batch(RandomData(SHAPES[name].task), config.seed, 0, config.data.batch_size)
    inputs, targets = (torch.from_numpy(batch[key].copy()).to(device) for key in ("inputs", "targets"))
    if inputs.ndim == 4:
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    model = model.to(device).train()
    optim = config.optim
    optimizer = torch.optim.AdamW(
        model.parameters(), optim.learning_rate, (optim.beta1, optim.beta2), optim.epsilon, optim.weight_decay
    )
    arithmetic = torch.autocast(device, getattr(torch, config.model.dtype), enabled=config.model.dtype != "float32")

    def run() -> None:
        with arithmetic:
            logits = model(inputs)
        torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), targets.flatten().long()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    measured = torch_calls.timed(torch, run)
    return dataclasses.replace(measured, items=config.data.batch_size)


def _built_in() -> str:
    return " or ".join(SHAPES)
