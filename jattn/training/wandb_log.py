"""Rows of metrics to Weights & Biases (https://wandb.ai), each once over any number of interruptions.

The csv files are the record, and what is sent follows them: a session first sends the rows of theirs that W&B does not
have yet, and never a step that it has. A continued run repeats what it lost bit for bit, so nothing there need be taken
back when it begins again at a checkpoint. One whose config was changed may differ, and becomes another W&B run.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jattn import config_json
from jattn.config import Config
from jattn.errors import UserError, unknown
from jattn.training.run import write_atomically

STATE = "wandb.json"
MODES = ("off", "online", "offline")


def check_wandb(mode: str) -> None:
    """Raises UserError for a mode that does not exist, or that needs a package that is not installed."""
    if mode not in MODES:
        raise unknown("logging.wandb", mode, MODES)
    if mode != "off":
        _package(mode)


class WandbLog:
    """A run of Weights & Biases, begun or continued.

    Args:
      folder: of the run; holds the W&B run's id and the last step sent in wandb.json, and what W&B keeps in wandb/.
      config: of the run; `config.logging.wandb` is online or offline.
      rows: what the csv files have, in the order of steps.

    Raises:
      UserError: W&B refuses.
    """

    def __init__(self, folder: Path, config: Config, rows: Iterable[Mapping[str, Any]]):
        mode, name = config.logging.wandb, config_json.config_hash(config)
        self._path = folder / STATE
        self._state = {"id": secrets.token_hex(4), "config": name, "sent": -1}
        if self._path.exists():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["config"] == name:
                self._state = kept
        wandb = _package(mode)
        try:
            self._run = wandb.init(
                project=config.logging.wandb_project,
                id=self._state["id"],
                name=folder.name,
                config=config_json.flatten(config),
                dir=str(folder),
                mode=mode,
                resume="allow" if mode == "online" else None,
            )
        except Exception as error:  # of several classes, as it fails to log in, to connect ...
            raise UserError(
                f"Weights & Biases cannot be used ({error}): log in with `wandb login`, or set logging.wandb to "
                "offline or off"
            ) from error
        if mode == "online":
            self._state["sent"] = self._run.step - 1  # the server knows best what has arrived
        self._remember()
        for row in rows:
            self.send(int(row["step"]), row)

    def send(self, step: int, values: Mapping[str, Any]) -> None:
        """Sends what there is to say of a step, unless W&B has that step already."""
        if step <= self._state["sent"]:
            return
        values = {name: value for name, value in values.items() if name != "step" and value is not None}
        self._run.log(values, step=step, commit=True)
        self._state["sent"] = step
        self._remember()

    def finish(self, failed: bool) -> None:
        """Waits until all has been sent."""
        self._run.finish(exit_code=int(failed))

    def _remember(self) -> None:
        write_atomically(self._path, json.dumps(self._state) + "\n")


def _package(mode: str) -> ModuleType:
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"logging.wandb={mode} needs the package wandb: install it (pip install wandb), or set logging.wandb=off"
        ) from None
    return wandb
