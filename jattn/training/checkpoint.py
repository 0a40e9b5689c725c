"""Checkpoints: orbax writes them in the background, checksums of our own tell whether they are still whole.

A folder `checkpoints/<step>` holds the arrays of the state (`state`), a JSON object (`info`: step, config,
accumulators, positions in the csv files), the validation metrics by which the best is chosen (`metrics`), and
`checksums.json`. Single flipped bits in array files restore as wrong values without an error, hence the last.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jattn.config import CheckpointConfig
from jattn.errors import UserError
from jattn.training import processes
from jattn.types import PyTree

FORMAT_VERSION = 1
"""Raised when the layout of a checkpoint changes; others are refused with a sentence."""

CHECKSUMS = "checksums.json"

# orbax adds the time of the commit to this file after the checksums have been taken; no value depends on it.
_NOT_SUMMED = frozenset({CHECKSUMS, "_CHECKPOINT_METADATA"})


class Checkpoints:
    """The checkpoints of one run: saved asynchronously, the newest `keep` and the best `keep_best` kept.

    Args:
      folder: where they lie, one numbered folder a step; made when missing, unless `read_only`.
      config: how many are kept, and what "best" means.
      warn: is told, in a sentence that names the file, about every damaged checkpoint.
      read_only: nothing is written or moved; for evaluation, also while the run is still training.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        *,
        warn: Callable[[str], None],
        read_only: bool = False,
    ):
        self.folder = folder.absolute()
        self._config = config
        self._warn = warn
        self._read_only = read_only
        self._manager: ocp.CheckpointManager | None = None
        self._held: int | None = None  # the step on disk that is known to be the state in memory

    def steps(self) -> list[int]:
        """Committed steps, oldest first. What a dying process left half-written is not among them."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal())

    def save(self, step: int, state: PyTree, info: dict, metrics: dict[str, float] | None) -> None:
        """Starts to save `state`; its buffers may be donated as soon as this returns.

        Args:
          step: names the checkpoint.
          state: pytree of arrays.
          info: JSON object that `restore` gives back.
          metrics: validation metrics of this very state, or None where it has not been validated; a
            checkpoint without them is never the best.

        Raises:
          FileExistsError: the step is on disk and may hold another state. Nothing has been changed.
        """
        if step == self._held:
            return
        if (self.folder / str(step)).exists():
            raise FileExistsError(f"{self.folder / str(step)} exists and is not overwritten")
        items = {
            "state": ocp.args.PyTreeSave(_flatten(state)),
            "info": ocp.args.JsonSave({"format_version": FORMAT_VERSION, "step": step} | info),
        }
        if not self._open().save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True):
            raise RuntimeError(f"orbax did not save step {step}")
        self._held = step

    def restore(self, target: PyTree, which: str | int = "newest") -> tuple[PyTree, dict]:
        """State and info of a checkpoint, checked against their checksums.

        A damaged one is reported, moved to `damaged/` beside this folder (unless read-only), and the one
        before it, or the next best, is taken; a step that was asked for by number has no substitute.

        Args:
          target: `ShapeDtypeStruct`s with shardings, in the structure of the state.
          which: "newest", "best" or a step.

        Raises:
          UserError: there is none, all are damaged, the format is unknown, or names or shapes do not fit.
        """
        step = self._chosen(lambda: self._candidates(which), which)
        restored = self._read(step, target)
        self._held = step
        return restored

    def params(self) -> tuple[int, dict[str, np.ndarray]]:
        """The step and the parameters, by their paths, of the best checkpoint, or of the newest if none was validated.

        Their moving average where the run keeps one. Nothing else of the state is read.

        Raises:
          UserError: there is no checkpoint, all are damaged, or the format is unknown.
        """
        steps = self.steps()
        step = self._chosen(lambda: self._ranked(steps) or reversed(steps), "best")
        self._info(step)
        with ocp.PyTreeCheckpointer() as reader:
            place = self.folder / str(step) / "state"
            stored = reader.metadata(place).item_metadata.tree
            part = "ema/" if any(name.startswith("ema/") for name in stored) else "params/"
            wanted = {name: leaf for name, leaf in stored.items() if name.startswith(part)}
            how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
            arguments = ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
            arrays = reader.restore(place, args=arguments)
        return step, {name.removeprefix(part): array for name, array in arrays.items()}

    def wait(self) -> None:
        """Returns when the last save lies on disk; raises what went wrong in the background."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees the background threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            sign = -1.0 if self._config.best_mode == "min" else 1.0

            def goodness(metrics: dict[str, float]) -> float:
                value = sign * metrics[self._config.best_metric]
                return value if not math.isnan(value) else -math.inf

            newest = preservation_policy.LatestN(n=self._config.keep)
            best = preservation_policy.BestN(
                get_metric_fn=goodness, n=self._config.keep_best, keep_checkpoints_without_metrics=False
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy([newest, best]),
                best_fn=goodness,  # without it orbax would not store the metrics
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
                read_only=self._read_only,
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _write_checksums(self) -> None:
        if not processes.is_first():
            return
        # orbax calls this when all files are written, before it renames the temporary folder to its final
        # name: the checksums are committed with what they protect.
        for folder in self.folder.iterdir():
            if folder.is_dir() and not (folder / CHECKSUMS).exists() and _is_being_saved(folder):
                sums = {name: _sha256(folder / name) for name in _files(folder)}
                part = folder / (CHECKSUMS + ".part")
                part.write_text(json.dumps(sums, indent=0))
                part.rename(folder / CHECKSUMS)

    def _chosen(self, candidates: Callable[[], Iterable[int]], which: str | int) -> int:
        """The step that is read. Of several processes the first looks for it."""
        return processes.of_first(self._first_whole(candidates(), which) if processes.is_first() else 0)

    def _first_whole(self, candidates: Iterable[int], which: str | int) -> int:
        """The first candidate whose files are as written; the damaged ones before it are reported."""
        damaged: dict[int, str] = {}
        for step in candidates:
            fault = damage(self.folder / str(step))
            if fault is None:
                break
            damaged[step] = fault
        else:
            self._nothing_found(which, damaged)
        for bad, fault in damaged.items():
            self._report(bad, fault, instead=step)
        return step

    def _candidates(self, which: str | int) -> Iterable[int]:
        steps = self.steps()
        if which == "newest":
            return reversed(steps)
        if which == "best":
            return self._best_first(steps)
        if which not in steps:
            raise UserError(
                f"{self.folder} holds no checkpoint {which!r}: choose best, newest or one of "
                f"{', '.join(map(str, steps)) or 'none (train first)'}"
            )
        return [int(which)]

    def _best_first(self, steps: list[int]) -> list[int]:
        ranked = self._ranked(steps)
        if steps == [0]:  # a model that was imported (`jattn.interop`): it has no other
            return steps
        if steps and not ranked:
            raise UserError(
                f"no checkpoint in {self.folder} has been validated, so none is the best by "
                f"{self._config.best_metric}: choose newest or one of {', '.join(map(str, steps))}"
            )
        return ranked

    def _ranked(self, steps: list[int]) -> list[int]:
        """Those that have been validated, the best first."""
        metric, sign = self._config.best_metric, 1 if self._config.best_mode == "min" else -1
        ranks = {}
        for step in steps:
            try:
                metrics = json.loads((self.folder / str(step) / "metrics" / "metrics").read_text())
                value = float(metrics[metric])
            except FileNotFoundError:  # was not validated
                continue
            except (OSError, ValueError, KeyError, TypeError):
                value = math.nan  # damaged, which its checksums will show
            ranks[step] = sign * value if not math.isnan(value) else math.inf
        return sorted(ranks, key=lambda step: (ranks[step], step))

    def _nothing_found(self, which: str | int, damaged: dict[int, str]) -> None:
        if not damaged:
            raise UserError(f"{self.folder} holds no checkpoint: train first, or give another --workdir")
        faults = "; ".join(f"{step}: {fault}" for step, fault in damaged.items())
        way_out = "choose another step" if isinstance(which, int) else "begin anew with --restart"
        raise UserError(f"every checkpoint asked for in {self.folder} is damaged ({faults}): {way_out}")

    def _report(self, bad: int, fault: str, instead: int) -> None:
        fate = "it is left out"
        if not self._read_only:
            aside = self.folder.parent / "damaged"
            aside.mkdir(exist_ok=True)
            place = aside / str(bad)
            number = 2
            while place.exists():
                place, number = aside / f"{bad}-{number}", number + 1
            (self.folder / str(bad)).rename(place)
            fate = f"it has been moved to {place}"
        self._warn(f"checkpoint {bad} is damaged: {fault}; {fate}, and checkpoint {instead} is used")

    def _info(self, step: int) -> dict:
        """What was saved with the state. Raises UserError if the checkpoint's format is another one."""
        info = json.loads((self.folder / str(step) / "info" / "metadata").read_text())
        if info["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{self.folder / str(step)} has checkpoint format {info['format_version']}, this jattn reads "
                f"{FORMAT_VERSION}: use the version of jattn that wrote it, or begin anew with --restart"
            )
        return info

    def _read(self, step: int, target: PyTree) -> tuple[PyTree, dict]:
        info = self._info(step)
        flat = _flatten(target)
        with ocp.PyTreeCheckpointer() as reader:
            place = self.folder / str(step) / "state"
            _check_fit(place, reader.metadata(place).item_metadata.tree, flat)
            arguments = ocp.args.PyTreeRestore(flat, restore_args=ocp.checkpoint_utils.construct_restore_args(flat))
            arrays = reader.restore(place, args=arguments)
        return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in flat]), info


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, naming the first bad one; None when all are as written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:
        return f"{folder / CHECKSUMS} is missing"
    except (OSError, ValueError) as error:
        return f"{folder / CHECKSUMS} cannot be read ({error})"
    for name, expected in sums.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror})"
        if found != expected:
            return f"{folder / name} does not have the checksum it was written with"
    return None


def _flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by their paths, `params/block_0/attention/query/kernel`: names that errors can quote."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _check_fit(place: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    faults = [f"{name} is missing in the checkpoint" for name in wanted if name not in stored]
    faults += [f"{name} is only in the checkpoint" for name in stored if name not in wanted]
    for name in sorted(wanted.keys() & stored.keys()):
        old, new = (tuple(stored[name].shape), stored[name].dtype), (wanted[name].shape, wanted[name].dtype)
        if old != new:
            faults.append(f"{name} is {old[0]} {old[1]} in the checkpoint and {new[0]} {new[1]} in this config")
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise UserError(
            f"{place} does not fit this config: {'; '.join(faults[:4])}{more}: "
            "use the config it was trained with, or begin anew with --restart"
        )


def _is_being_saved(folder: Path) -> bool:
    return ".orbax-checkpoint-tmp" in folder.name


def _files(folder: Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in _NOT_SUMMED)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
