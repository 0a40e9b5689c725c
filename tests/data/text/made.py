"""Small text data sets in their real formats, made on disk."""

import csv
import hashlib
import zipfile

import pyarrow
from pyarrow import parquet

from jattn.config import DataConfig
from jattn.data.text.enwik8 import Enwik8

PARAGRAPH = "The <unk> river, über all — flows past 東京 .\n"
LINES = [f"{n} {PARAGRAPH}" for n in range(60)]
TEXT = "".join(LINES)

WIKI = {
    "train": [" \n", " = Robert Boulter = \n", " \n", *(f' Robert " Bob " <unk> acts , {n} . \n' for n in range(40))],
    "valid": [" \n", " = Homarus = \n", *(f" A lobster {n} . \n" for n in range(12))],
    "test": [" \n", " = Valkyria = \n", *(f" Senjō no {n} . \n" for n in range(12))],
}
"""Lines of WikiText: an empty one is a space."""

ENWIK8 = ("<page>Anarchism — ελληνικά 東京\n" * 40).encode()[:1000]
"""Stands for the real one; ends within a character, as nothing says that it must not."""


def table(path, **columns):
    """A parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def wikitext(folder, suffix="raw"):
    """`wiki.train.raw` and its like."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in WIKI.items():
        (folder / f"wiki.{split}.{suffix}").write_text("".join(rows), encoding="utf-8")
    return folder


def wikitext_parquet(folder):
    """As on the Hugging Face hub: empty lines are empty rows; training in two shards."""
    rows = {split: ["" if row == " \n" else row for row in lines] for split, lines in WIKI.items()}
    table(folder / "train-00000-of-00002.parquet", text=rows["train"][:20])
    table(folder / "train-00001-of-00002.parquet", text=rows["train"][20:])
    table(folder / "validation-00000-of-00001.parquet", text=rows["valid"])
    table(folder / "test-00000-of-00001.parquet", text=rows["test"])
    return folder


def wikitext_csv(folder):
    """As pandas' to_csv(index=False, header=False) writes the hub's rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in WIKI.items():
        rows = ["" if row == " \n" else row for row in rows]
        quoted = ('"' + row.replace('"', '""') + '"\n' for row in rows)
        (folder / f"wiki.{split}.tokens").write_text("".join(quoted), encoding="utf-8")
    return folder


def wikitext_zip(folder, version):
    """The archive, as it used to be published."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "raw" if version.endswith("raw") else "tokens"
    with zipfile.ZipFile(folder / f"{version}-v1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for split, rows in WIKI.items():
            archive.writestr(f"{version}/wiki.{split}.{suffix}", "".join(rows))
    return folder


def reviews(count=40):
    """(text, label, part) of made reviews, each different; half of each part positive."""
    for n in range(count):
        label, part = n % 2, ("train", "test")[n // 2 % 2]
        yield f'A {"fine" if label else "poor"} film,<br />number {n}: "so" it is.', label, part


def imdb_csv(folder, count=40):
    """The table review,sentiment."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "IMDB Dataset.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "sentiment"])
        rows.writerows((text, ("negative", "positive")[label]) for text, label, _ in reviews(count))
    return folder


def imdb_folder(folder, count=40):
    """The folder aclImdb, with reviews that have no sentiment."""
    for n, (text, label, part) in enumerate(reviews(count)):
        place = folder / "aclImdb" / part / ("neg", "pos")[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n}_{7 * label}.txt").write_text(text, encoding="utf-8")
    (folder / "aclImdb" / "train" / "unsup").mkdir()
    (folder / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("I do not know.")
    return folder


def imdb_parquet(folder, count=40):
    """As on the Hugging Face hub."""
    for part in ("train", "test"):
        rows = [(text, label) for text, label, where in reviews(count) if where == part]
        texts, labels = zip(*rows, strict=True)
        table(folder / "plain_text" / f"{part}-00000-of-00001.parquet", text=texts, label=labels)
    table(folder / "plain_text" / "unsupervised-00000-of-00001.parquet", text=["I do not know."], label=[-1])
    return folder


def enwik8(folder, monkeypatch):
    """The unpacked file, a small one taken for the real one."""
    monkeypatch.setattr(Enwik8, "SIZE", len(ENWIK8))
    monkeypatch.setattr(Enwik8, "SHA1", hashlib.sha1(ENWIK8).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "enwik8").write_bytes(ENWIK8)
    return folder


def config(name, folder, monkeypatch):
    """The config of a small data set that is made in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "imdb":
        imdb_csv(folder, 200)
        return DataConfig(name, "folder", str(folder), options="train_size=150, valid_size=20, max_length=9")
    if name == "text":
        (folder / "a.txt").write_text(TEXT * 2, encoding="utf-8")
        return DataConfig(name, "folder", str(folder), "characters", "sequence_length=13")
    if name == "enwik8":
        enwik8(folder, monkeypatch)
        return DataConfig(name, "folder", str(folder), options="sequence_length=7")
    wikitext(folder)
    return DataConfig(name, "folder", str(folder), "words(vocab_size=20)", "sequence_length=5")


def bert_vocabulary(folder):
    """A folder with BERT's vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["Robert", "Bob", "acts", "act", "##s", "lobster", "=", ".", ",", '"', *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n", encoding="utf-8")
    return folder


def hub_download(cache, repository, files, kind="datasets"):
    """What `hf download` leaves: a snapshot named by a commit, to which the branch main points."""
    folder = cache / f"{kind}--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    files(snapshot)
    return snapshot
