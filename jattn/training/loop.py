"""The training loop, to be read from top to bottom."""

import contextlib
import dataclasses
import signal
from pathlib import Path
from typing import Any

import jattn
from jattn import data
from jattn.config import Config
from jattn.models import summary
from jattn.training import attention_log, processes, setup
from jattn.training.checkpoint import Checkpoints
from jattn.training.curves import plot_curves
from jattn.training.init_from import initial_weights
from jattn.training.interrupt import StopRequest
from jattn.training.journal import Journal
from jattn.training.metrics import Records
from jattn.training.progress import Console, duration
from jattn.training.run import keep_files, open_run, store_config, write_atomically
from jattn.training.validation import evaluated_params, validate
from jattn.training.wandb_log import check_wandb


def train(
    config: Config,
    workdir: Path | str,
    *,
    restart: bool = False,
    allow_config_change: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains what `config` describes in the folder `workdir`, continuing where an earlier run there stopped.

    A continued run is bit for bit the one that was not interrupted. SIGTERM and Ctrl-C end the step, save and
    then raise SystemExit(0) and KeyboardInterrupt.

    Args:
      config: what to train.
      workdir: folder of the run; see `jattn.training.run`.
      restart: begin anew, keeping an old run under another name.
      allow_config_change: continue although the folder's run has another config.
      quiet: print nothing: what is said, warnings included, goes to log.txt alone, as in sweeps and notebooks.

    Returns:
      The last row of metrics: step, epoch, train/loss, valid/loss ...

    Raises:
      UserError: the config or the folder cannot be used; nothing has been written or lost.
      NonFiniteError: `config.max_nonfinite_steps` steps in a row were not finite.
    """
    experiment = setup.build(config)
    check_wandb(config.logging.wandb)
    plan, parallel, dataset = experiment.plan, experiment.parallel, experiment.dataset
    weights = initial_weights(experiment, Path(workdir), restart=restart)
    with contextlib.ExitStack() as stack:
        run = open_run(Path(workdir), config, restart=restart, allow_config_change=allow_config_change, quiet=quiet)
        folder, console, changes = stack.enter_context(run)
        processes.wait_for_all("the run's folder is open")
        stop = stack.enter_context(StopRequest())
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(Path(workdir) / "checkpoints", config.checkpoint, warn=console.warn))
        )
        start, state, info = 0, None, {}
        if checkpoints.steps():
            state, info = checkpoints.restore(parallel.abstract_state)
            start = info["step"]
        keep_files(folder, dataset.kept(), replace=bool(changes) or state is None)
        if changes:
            console.warn(f"continuing with another config: {'; '.join(changes)}")
            store_config(folder, config)
        records = stack.enter_context(Records(folder, config, info["positions"] if info else {}, start + 1))
        for path in records.short:
            console.warn(f"{path} is shorter than at checkpoint {start}: rows that it had are lost")
        look = attention_log.build(experiment)
        names = () if look is None else look.names
        journal = Journal(experiment, records, console, info["journal"] if info else {}, names)
        _introduce(experiment, folder, console, start)
        if look is None and plan.attention_every is not None:
            console.say("attention: not logged, since no layer scores pairs of tokens")
        if start >= plan.total:
            console.say(f"nothing to do: {folder} has all of its {plan.total} steps")
            return journal.last
        if state is None:
            state = parallel.init_state()
            if weights is not None:
                state = weights.put_into(state)
                for line in weights.report():
                    console.say(line)

        rows = parallel.rows(config.data.batch_size)
        make = lambda n: data.train_batch(dataset, config.seed, n, config.data.batch_size, rows)  # noqa: E731
        batches = stack.enter_context(
            contextlib.closing(data.prefetched(make, start, plan.total, config.data.prefetch))
        )
        console.begin_bar(start, plan.total)
        unread = None
        for step, batch in enumerate(batches, start + 1):
            state, metrics = parallel.train_step(state, batch)
            if unread is not None:  # the step before this one, while the device works on this one
                journal.read(step - 1, unread)
                journal.row(step - 1, None)
            unread = metrics
            _complain(dataset, console)
            asked = stop.asked(plan.due(step, plan.log_every))
            stopping = asked != 0
            validating = plan.due(step, plan.validate_every)
            saving = plan.due(step, plan.checkpoint_every) or stopping
            sampling = plan.due(step, plan.sample_every)
            looking = look is not None and plan.due(step, plan.attention_every)
            if not (validating or saving or sampling or looking):
                continue
            journal.read(step, unread)
            unread, valid, texts, attention = None, None, [], None
            if validating:
                valid = validate(experiment, evaluated_params(state))
            if sampling:
                texts = experiment.sampler(step, evaluated_params(state))
            if looking:
                attention = look(evaluated_params(state))
            journal.row(step, valid, texts, attention)
            if saving:
                found = None if valid is None else {f"valid/{name}": value for name, value in valid.measures.items()}
                checkpoints.save(step, state, _info(experiment, step, records, journal), found)
            if stopping and step < plan.total:
                checkpoints.close()
                console.end_bar()
                _complain(dataset, console, final=True)
                console.say(f"stopped and saved at step {step}: the same command continues the run in {folder}")
                raise SystemExit(0) if asked == signal.SIGTERM else KeyboardInterrupt
        checkpoints.close()
        console.end_bar()
        _complain(dataset, console, final=True)
        plot_curves(folder / "metrics.csv", folder / "curves.png")
        console.say(f"done in {duration(journal.seconds())}: checkpoints, metrics and curves are in {folder}")
        return journal.last


def _introduce(experiment: setup.Experiment, folder: Path, console: Console, start: int) -> None:
    """Says what is trained on what, and how its attention is computed; the details go to model.txt."""
    task = experiment.dataset.task
    per_device = experiment.config.data.batch_size // experiment.config.optim.accumulation_steps
    text = summary(experiment.model, task, per_device)
    write_atomically(folder / "model.txt", text)
    devices = experiment.parallel.mesh.devices.flatten()
    console.say(f"jattn {jattn.__version__} on {len(devices)} x {devices[0].device_kind}")
    console.say(f"data: {experiment.dataset.description()}")
    console.say(f"model: {text.splitlines()[0]}")
    for line in text.strip().split("\n\n")[-1].splitlines():
        console.say(f"attention: {line}")
    if experiment.config.validation.split == "test":
        console.say("validation: on the test split, so that the best checkpoint is chosen on what it is tested on")
    begin = f"continuing at step {start}" if start else "beginning"
    plan = experiment.plan
    console.say(f"{begin}: {plan.total} steps, {plan.total / plan.steps_per_epoch:.3g} epochs, in {folder}")


def _complain(dataset: data.Dataset, console: Console, *, final: bool = False) -> None:
    """Says what has turned out to be wrong with the data."""
    for text in dataset.complaints(final=final):
        console.warn(text)


def _info(experiment: setup.Experiment, step: int, records: Records, journal: Journal) -> dict[str, Any]:
    """What a checkpoint holds besides the state."""
    return {
        "step": step,
        "examples": step * experiment.config.data.batch_size,
        "config": dataclasses.asdict(experiment.config),
        "jattn": jattn.__version__,
        "positions": records.positions(),
        "journal": journal.remember(),
    }
