"""Tokenizers that were made before: in JSON, in files of several kinds, among the downloads of the hub."""

import difflib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from jattn.data.text.subwords import Subwords, gpt2, word_pieces
from jattn.data.text.tokenizers import Bytes, Characters, Tokenizer, Words
from jattn.errors import UserError

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
"""What a folder or a download may hold: all of a tokenizer, BERT's word pieces, or GPT-2's tokens and merges."""


def from_json(text: str) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_json` wrote, or the Hugging Face library's own `tokenizer.json`.

    Raises:
      UserError: it is neither.
    """
    try:
        facts = json.loads(text)
        kind = facts.get("jattn")
        if kind == "bytes":
            return Bytes()
        if kind == "characters":
            return Characters(facts["table"])
        if kind == "words":
            return Words(facts["words"], facts["clean"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"this is no tokenizer in JSON ({error})") from None
    return Subwords.from_json(text)


def load(name: str, known: Iterable[str]) -> Tokenizer:
    """The tokenizer in a file or folder, or among the downloads of the Hugging Face hub. Nothing is downloaded.

    Args:
      name: `tokenizer.json` or `vocab.txt` or a folder with FILES, or a name of the hub.
      known: names of tokenizers that are none of these, for the message.

    Raises:
      UserError: there is none.
    """
    path = Path(name).expanduser()
    if path.exists():
        folder = path if path.is_dir() else path.parent
        found = {file: folder / file for file in FILES if (folder / file).exists()}
        if not path.is_dir():
            found = {"vocab.txt" if path.suffix == ".txt" else "tokenizer.json": path}
        return _read(name, found)
    if name.startswith((".", "/", "~")) or path.suffix in (".json", ".txt"):
        raise UserError(f"tokenizer {name!r} does not exist: give a tokenizer.json, a vocab.txt or their folder")
    from huggingface_hub import constants, errors, try_to_load_from_cache

    try:
        cached = {file: try_to_load_from_cache(name, file) for file in FILES}
    except errors.HFValidationError:
        cached = {}
    found = {file: Path(place) for file, place in cached.items() if isinstance(place, str | os.PathLike)}
    if not found:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"tokenizer {name!r}{hint} is none of {', '.join(known)}, no file, and not among the downloads of the "
            f"Hugging Face hub (looked in {constants.HF_HUB_CACHE}): get it with `hf download {name} tokenizer.json`, "
            "give the path of its tokenizer.json, or train one on the text with data.tokenizer='bpe(vocab_size=8192)'"
        )
    return _read(name, found)


def _read(name: str, files: dict[str, Path]) -> Tokenizer:
    try:
        if "tokenizer.json" in files:
            return from_json(files["tokenizer.json"].read_text(encoding="utf-8"))
        if "vocab.txt" in files:
            return word_pieces(files["vocab.txt"])
        if "vocab.json" in files and "merges.txt" in files:
            return gpt2(files["vocab.json"], files["merges.txt"])
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"tokenizer {name!r} cannot be read: {error}") from None
    raise UserError(
        f"tokenizer {name!r} has neither tokenizer.json nor vocab.txt nor both vocab.json and merges.txt: "
        "get one of them"
    )
