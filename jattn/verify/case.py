"""A recorded case of a released code: an .npz with inputs, weights, outputs and gradients."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jattn.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What one file holds; arrays by the name that follows their group.

    settings: arguments of the released class, and the candidates that it drew.
    noise: largest difference between the gradients of the released code in float32 and in float64.
    """

    name: str
    mechanism: str
    settings: dict[str, Any]
    noise: float
    arrays: dict[str, np.ndarray]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a group such as "in", "param", "grad"."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}


def read(path: Path) -> Recorded:
    """The case in a file.

    Raises:
      UserError: it is no such file.
    """
    try:
        with path.open("rb") as opened, np.load(opened) as file:  # numpy leaves a damaged file open
            arrays = dict(file)
        meta = json.loads(str(arrays.pop("meta")))
        settings = {"source": meta["source"]} | meta["settings"] if "source" in meta else dict(meta["settings"])
        if "aux/randperm" in arrays:
            settings["candidates"] = tuple(int(token) for token in arrays["aux/randperm"])
        noise = float(meta.get("f32_vs_f64_grad_maxabs") or 0.0)
        return Recorded(path.name, meta["mechanism"], settings, noise, arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no recorded case ({type(error).__name__}: {error})") from None
