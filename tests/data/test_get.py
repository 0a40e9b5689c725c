"""`python -m jattn data get` and `data list`, with servers and archives of the test's own."""

import dataclasses
import hashlib
import io
import tarfile

import pytest

from jattn.__main__ import main
from jattn.config import DataConfig
from jattn.data import DATASETS, build, get, published
from jattn.data.download import Remote
from jattn.data.published import BY_HAND, PUBLISHED
from tests.data.files import small, write_cifar
from tests.data.server import serving


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JATTN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "data"


def publish(monkeypatch, name, content, **changes):
    """Puts the content of its only file in the place of what a data set has been published as."""
    file = PUBLISHED[name].files[0]
    made = Remote(file.path, file.url, len(content), f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}")
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], files=(made,), **changes))


def imdb_archive(reviews=3):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for part, sentiment in [(p, s) for p in ("train", "test") for s in ("pos", "neg", "unsup")]:
            for number in range(reviews):
                text = f"{part} {sentiment} {number}, a film".encode()
                member = tarfile.TarInfo(f"aclImdb/{part}/{sentiment}/{number}_7.txt")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def rows(capsys):
    assert main(["data", "list"]) == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line]


def test_imdb_is_got_unpacked_and_read(folder, monkeypatch, capsys):
    content = imdb_archive()
    publish(monkeypatch, "imdb", content)
    with serving({"/imdb.tar.gz": content}, cuts=[200]) as server:
        assert main(["data", "get", "imdb", "--url", f"{server.url}/imdb.tar.gz"]) == 0
        printed = capsys.readouterr().out
        assert "MD5 as published" in printed
        assert f"imdb is in {folder / 'imdb'}: --config.data.name=imdb --config.data.source=folder\n" in printed
        assert main(["data", "get", "imdb", "--url", f"{server.url}/imdb.tar.gz"]) == 0
        assert len(server.requests) == 2  # the second continued the first; nothing was got again
    assert not (folder / "imdb" / "aclImdb" / "train" / "unsup").exists()
    dataset = build(DataConfig(name="imdb", source="folder", options="division='standard', valid_size=2"))
    assert (dataset.size("train"), dataset.size("valid"), dataset.size("test")) == (4, 2, 6)
    capsys.readouterr()
    (row,) = [row for row in rows(capsys) if row[0] == "imdb"]
    assert row[1:4] == ["folder", "there", str(folder / "imdb")]


def test_an_archive_without_the_reviews_leaves_nothing_behind(folder, monkeypatch, capsys):
    content = imdb_archive(reviews=0)
    publish(monkeypatch, "imdb", content)
    with serving({"/imdb.tar.gz": content}) as server:
        assert main(["data", "get", "imdb", "--url", f"{server.url}/imdb.tar.gz"]) == 2
    assert "aclImdb_v1.tar.gz cannot be unpacked" in capsys.readouterr().err
    assert [path.name for path in (folder / "imdb").iterdir()] == ["aclImdb_v1.tar.gz"]


def test_cifar_is_got_into_a_folder_of_choice(tmp_path, monkeypatch, capsys):
    archive, _ = write_cifar(tmp_path / "made", small(published.cifar_archives.CIFAR10[0], 3), packed=True)
    content = (tmp_path / "made" / archive.file).read_bytes()
    publish(monkeypatch, "cifar10", content)
    with serving({f"/mirror/{archive.file}": content}) as server:
        arguments = ["--path", str(tmp_path / "here"), "--url", f"{server.url}/mirror/"]
        assert main(["data", "get", "cifar10", *arguments]) == 0
    assert (tmp_path / "here" / archive.file).read_bytes() == content
    assert f"--config.data.path={tmp_path / 'here'}" in capsys.readouterr().out


def test_several_files_come_from_the_folder_of_a_mirror(folder, monkeypatch):
    content = {name: name.encode() for name in ("train.parquet", "test.parquet")}
    files = tuple(
        Remote(f"v1/{name}", "https://nowhere.invalid", len(x), f"sha256:{hashlib.sha256(x).hexdigest()}")
        for name, x in content.items()
    )
    with serving({f"/m/{name}": x for name, x in content.items()}) as server:
        get.get(published.Published(files), folder / "two", f"{server.url}/m")
    assert {path.name: path.read_bytes() for path in (folder / "two" / "v1").iterdir()} == content


def test_an_interrupted_download_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(get, "fetch", interrupted)
    assert main(["data", "get", "enwik8"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_no_room_is_said_before_anything_is_got(folder, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 10**6}))
    assert main(["data", "get", "enwik8"]) == 2
    assert "1 MB of room and 36 MB are needed" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("cifar", 2, "unknown data set 'cifar': did you mean 'cifar10' or 'cifar100'?"),
        ("imagenet", 2, "imagenet cannot be got by a command: register at https://image-net.org/download"),
        ("text", 2, "name your text file"),
        ("digits", 0, "digits is in the package"),
    ],
)
def test_what_cannot_or_need_not_be_got(name, code, message, capsys):
    assert main(["data", "get", name]) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert (captured.err + captured.out).count("\n") == 1


def test_every_data_set_is_in_the_package_published_or_to_be_got_by_hand():
    elsewhere = {name for name, cls in DATASETS.items() if cls.sources != ("embedded",)}
    assert elsewhere == PUBLISHED.keys() | BY_HAND.keys()
    assert not PUBLISHED.keys() & BY_HAND.keys()


def test_a_list_of_what_is_there_in_part_elsewhere_and_not(folder, tmp_path, capsys):
    (folder / "enwik8").mkdir(parents=True)
    (folder / "enwik8" / "enwik8.zip.part").write_bytes(bytes(36_445_475 // 2))
    (folder / "image_folder" / "cats").mkdir(parents=True)
    (folder / "image_folder" / "cats" / "a.png").write_bytes(bytes(1_500_000))
    (folder / "imdb").mkdir()
    (folder / "imdb" / "reviews.csv").write_text("review,sentiment")
    (tmp_path / "hub" / "datasets--uoft-cs--cifar100").mkdir(parents=True)
    found = {}
    for row in rows(capsys):
        found.setdefault(row[0], []).append(row[1:])
    assert list(found) == list(DATASETS)
    assert found["digits"] == [["embedded", "in the package", "", ""]]
    assert found["cifar10"] == [["", "not there", "`python -m jattn data get cifar10`", "170 MB"]]
    assert found["cifar100"][0][:2] == ["huggingface", "downloads"]
    assert found["enwik8"][0][:2] == ["folder", "50% there: `python -m jattn data get enwik8`"]
    assert found["image_folder"] == [["folder", "there", str(folder / "image_folder"), "1.5 MB"]]
    assert found["imdb"][0][1] == "other files"
    assert found["imagenet"][0][2] == "`python -m jattn data get imagenet` says how to get it"
