"""Where the files of a data set lie, and what to say where they do not."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from jattn.errors import UserError


def data_folder(name: str, path: str = "") -> Path:
    """The folder of a data set: `path`, or if that is empty `name` in $JATTN_DATA (if unset, in `data` here)."""
    if path:
        return Path(path).expanduser().absolute()
    return Path(os.environ.get("JATTN_DATA", "data")).expanduser().absolute() / name


def missing(name: str, folder: Path, looked_for: Iterable[str], url: str) -> UserError:
    """The error for a data set whose files are not where they should be."""
    return UserError(
        f"data set {name} is not in {folder} (looked for {', '.join(looked_for)}): get it with "
        f"{get_command(name, folder)} (from {url}), or say with data.path where it is"
    )


def get_command(name: str, path: Path | None = None) -> str:
    """The command that gets a data set, in backquotes.

    path: the folder where it is to be; None = where it is usually kept.
    """
    where = "" if path is None or path.absolute() == data_folder(name) else f" --path {shlex.quote(str(path))}"
    return f"`python -m jattn data get {name}{where}`"


def hub_folder(name: str, repository: str, pattern: str) -> Path:
    """The newest downloaded files of a data set of the Hugging Face hub, or the folder that `repository` names.

    Nothing is downloaded: a run starts or fails at once.

    Raises:
      UserError: it has not been downloaded; says how.
    """
    if Path(repository).expanduser().is_dir():
        return Path(repository).expanduser().absolute()
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset", local_files_only=True))
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{name} is not among the downloads of the Hugging Face hub (looked for {repository} in "
            f"{constants.HF_HUB_CACHE}): get it with `hf download {repository} --repo-type dataset --include "
            f"'{pattern}'`, or set data.path to a folder with its files"
        ) from None
    except errors.HFValidationError:
        raise UserError(
            f"data.path={repository!r} of {name} is neither a folder nor the name of a data set of the Hugging Face "
            "hub, such as 'Salesforce/wikitext'"
        ) from None
