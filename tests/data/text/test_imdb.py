"""Reviews: the same splits from every format, a vocabulary that has not seen the test."""

import numpy as np
import pytest

from jattn.data.text.imdb import IMDB
from jattn.errors import UserError
from tests.data.text import made

SIZES = {"train_size": 24, "valid_size": 6}


def rows(dataset, split):
    index = np.arange(dataset.size(split))
    return dataset.examples(split, index, np.zeros_like(index))


def texts(dataset, split):
    """Words of each review, without padding and start."""
    return [dataset.fitted.decode(row[row > 1] - 2) for row in rows(dataset, split)["inputs"]]


def texts_known(published, split):
    """The same as published, where the vocabulary is that of all reviews."""
    return [published.fitted.decode(row[row > 1] - 1) for row in rows(published, split)["inputs"]]


def number(text):
    return int(text.split()[4])


@pytest.fixture
def places(tmp_path):
    return {
        "csv": made.imdb_csv(tmp_path / "csv"),
        "file": tmp_path / "csv" / "IMDB Dataset.csv",
        "folder": made.imdb_folder(tmp_path / "folder"),
        "inner": tmp_path / "folder" / "aclImdb",
        "parquet": made.imdb_parquet(tmp_path / "parquet"),
    }


def imdb(place, **options):
    return IMDB(path=str(place), **SIZES | options)


def test_every_format_gives_the_same_splits(places):
    expected = imdb(places["csv"])
    assert [expected.size(split) for split in expected.splits] == [24, 6, 10]
    for place in places.values():
        found = imdb(place)
        for split in found.splits:
            for name, array in rows(expected, split).items():
                np.testing.assert_array_equal(rows(found, split)[name], array)


def test_reviews_have_their_sentiment_and_are_in_one_split(places):
    found = imdb(places["csv"], as_published=True, tokenizer="words(vocab_size=99)")
    for split in found.splits:
        for text, label in zip(texts_known(found, split), rows(found, split)["targets"], strict=True):
            assert ("fine" in text, "poor" in text) == (label == 1, label == 0)
    numbers = [number(row) for split in found.splits for row in texts_known(found, split)]
    assert sorted(numbers) == list(range(40))
    other = imdb(places["csv"], split_seed=1)
    assert texts(other, "test") != texts(found, "test")


def test_the_published_division(places):
    reviews = list(made.reviews())
    published = {part: {n for n, (_, _, where) in enumerate(reviews) if where == part} for part in ("train", "test")}
    for place in ("folder", "parquet"):
        found = imdb(places[place], division="standard")
        assert [found.size(split) for split in found.splits] == [14, 6, 20]
        assert {number(text) for text in texts(found, "train")} < published["train"]
        whole = imdb(places[place], division="standard", valid_size=0)
        assert [whole.size(split) for split in whole.splits] == [20, 20, 20]
        assert {number(text) for text in texts(whole, "train")} == published["train"]
        np.testing.assert_array_equal(rows(whole, "valid")["inputs"], rows(whole, "test")["inputs"])
    with pytest.raises(UserError, match=r"does not say which reviews are for testing.*division='random'"):
        imdb(places["csv"], division="standard")


def test_words_of_other_splits_are_unknown(places):
    found = imdb(places["csv"])
    numbers = {text.split()[4] for text in texts(found, "train")}
    assert found.task.vocab_size == 2 + 1 + len(numbers) + len(
        ["a", "fine", "poor", "film", "number", "so", "it", "is"]
    )
    for text in texts(found, "test"):
        assert text.split()[4] == "<unk>"
    published = imdb(places["csv"], as_published=True, tokenizer="words(vocab_size=99)")
    assert published.task.vocab_size == 1 + 1 + 40 + 8


def test_unknown_words_are_padding_as_published(places):
    published = imdb(places["csv"], as_published=True, tokenizer="words(vocab_size=3)")  # two words
    for row in rows(published, "test")["inputs"]:
        assert row[0] == 1
        assert set(row[1:]) == {0, 2, 3}
    assert published.task.vocab_size == 4
    default = imdb(places["csv"], tokenizer="words(vocab_size=3)")
    for row, other in zip(rows(published, "test")["inputs"], rows(default, "test")["inputs"], strict=True):
        np.testing.assert_array_equal(np.where(other > 2, other - 1, np.where(other == 2, 0, other)), row)


def test_the_first_or_the_last_words(places):
    whole = rows(imdb(places["csv"]), "test")["inputs"]  # start, 8 words, padding
    np.testing.assert_array_equal(whole[:, 0], 1)
    np.testing.assert_array_equal(whole[:, 9:], 0)
    assert (whole[:, 1:9] > 1).all()
    np.testing.assert_array_equal(rows(imdb(places["csv"], max_length=5), "test")["inputs"], whole[:, :5])
    last = rows(imdb(places["csv"], max_length=5, keep="last"), "test")["inputs"]
    np.testing.assert_array_equal(last, whole[:, 4:9])
    padded = rows(imdb(places["csv"], max_length=12, keep="last"), "test")["inputs"]
    np.testing.assert_array_equal(padded, np.pad(whole[:, :9], ((0, 0), (3, 0))))


def test_a_download_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"imdb is not among the downloads.*hf download stanfordnlp/imdb"):
        IMDB(source="huggingface", **SIZES)
    made.hub_download(tmp_path, "stanfordnlp/imdb", made.imdb_parquet)
    assert IMDB(source="huggingface", **SIZES).size("test") == 10


def test_mistakes(places, tmp_path):
    for options, message in (
        ({"train_size": 40}, r"no review is left for split 'valid'|'test': .* has 40, with train_size=40 and valid"),
        ({"division": "randon"}, "unknown division of imdb 'randon': did you mean 'random'"),
        ({"keep": "middle"}, "unknown keep of imdb 'middle'"),
        ({"max_length": 1}, "option max_length=1 of IMDB must be 2 or more"),
        ({"as_published": True, "tokenizer": "bytes"}, r"as_published=True of imdb needs data.tokenizer=words"),
    ):
        with pytest.raises(UserError, match=message):
            imdb(places["csv"], **options)
    with pytest.raises(
        UserError,
        match=r"imdb is not in .*looked for train/pos, .*get it with `python -m jattn data get imdb --path .*https://",
    ):
        imdb(tmp_path / "nowhere")
    path = places["file"]
    whole = path.read_text()
    for text, message in (
        (whole[: whole.index(",positive")], r"line 3 of .*Dataset.csv is no review with its sentiment"),
        (
            whole.replace("negative", "bad", 1),
            r"line 2 of .*is no review with its sentiment, positive or negative: remove it, .*data get imdb --path",
        ),
        (whole.replace("review,", "text,", 1), "does not begin with review,sentiment"),
        (whole[:40], r"line . of .*Dataset.csv is no table \(unexpected end of data\)"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            imdb(path)
    for review in (places["inner"] / "test" / "pos").iterdir():
        review.unlink()
    with pytest.raises(UserError, match=r"test/pos has no reviews \(\*.txt\)"):
        imdb(places["folder"])
