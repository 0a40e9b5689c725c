"""Corpora in files: the same text from every format, divided as it should be, tokenised once."""

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest
import tokenizers

from jattn.config import DataConfig
from jattn.data import build, train_batch
from jattn.data.corpus import Corpus
from jattn.data.text.enwik8 import Enwik8
from jattn.data.text.rows import END
from jattn.data.text.text_files import TextFiles
from jattn.data.text.tokenised import smallest_type
from jattn.data.text.wikitext import WikiText2, WikiText103
from jattn.errors import UserError
from tests.data.text import made


def text_of(corpus, split):
    return corpus.fitted.decode(corpus.tokens(split))


def whole(corpus):
    return "".join(text_of(corpus, split) for split in corpus.splits)


@pytest.fixture
def folder(tmp_path):
    for name, lines in (("train", made.LINES[:50]), ("valid", made.LINES[50:55]), ("test", made.LINES[55:])):
        (tmp_path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def corpus(path, **options):
    return TextFiles(path=str(path), sequence_length=8, **options)


class TestTextFiles:
    def test_splits_by_the_names_of_files(self, folder):
        (folder / "README.md").write_text("belongs to no split")
        found = corpus(folder)
        assert text_of(found, "train") == "".join(made.LINES[:50])
        assert text_of(found, "test") == "".join(made.LINES[55:])
        assert found.task.tokens_per_byte == 1
        assert found.tokens("valid").dtype == np.uint8

    @pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe(vocab_size=300)"])
    def test_one_text_is_cut_where_lines_end(self, tmp_path, tokenizer):
        path = tmp_path / "a.txt"
        path.write_text(made.TEXT, encoding="utf-8")
        found = corpus(path, tokenizer=tokenizer, valid_share=0.2, test_share=0.1)
        assert whole(found) == made.TEXT
        parts = [text_of(found, split) for split in found.splits]
        assert all(part.endswith("\n") for part in parts)
        np.testing.assert_allclose([len(part) / len(made.TEXT) for part in parts], [0.7, 0.2, 0.1], atol=0.02)

    def test_files_whose_names_say_nothing_are_one_text(self, folder):
        assert whole(corpus(folder, by_name=False)) == "".join([*made.LINES[55:], *made.LINES[:50], *made.LINES[50:55]])
        assert whole(corpus(folder, by_name=False, pattern="t*.txt")) == "".join([*made.LINES[55:], *made.LINES[:50]])

    def test_a_download_of_the_hub(self, tmp_path, monkeypatch):
        def write(snapshot):
            (snapshot / "README.md").write_text("about it")
            made.wikitext_parquet(snapshot / "small")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        made.hub_download(tmp_path, "someone/some", write)
        found = corpus("someone/some", source="huggingface")
        assert text_of(found, "test") == "".join("\n" if row == " \n" else row for row in made.WIKI["test"])
        with pytest.raises(UserError, match=r"looked for someone/other in .*`hf download someone/other --repo-type"):
            corpus("someone/other", source="huggingface")
        with pytest.raises(UserError, match=r"data.path='a/b/c' of the text is neither a folder nor the name"):
            corpus("a/b/c", source="huggingface")

    def test_bytes_are_read_whatever_they_are(self, tmp_path):
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 4 + b"\n" + bytes(100) + b"\n" + bytes(90))
        found = corpus(tmp_path / "a.bin", valid_share=0.1, test_share=0.1)
        joined = b"".join(found.tokens(split).tobytes() for split in found.splits)
        assert joined == (tmp_path / "a.bin").read_bytes()
        with pytest.raises(UserError, match=r"a.bin is not UTF-8 \(byte 128 is 0x80\)"):
            corpus(tmp_path / "a.bin", tokenizer="characters")

    def test_tokens_per_byte_are_those_of_the_split(self, folder):
        found = corpus(folder, tokenizer="characters")
        text = "".join(made.LINES[55:])
        assert found.task_of("test").tokens_per_byte == len(text) / len(text.encode())
        assert found.task.tokens_per_byte == len(made.TEXT) / len(made.TEXT.encode())
        assert found.task_of("test").vocab_size == found.vocab_size == len(set(made.TEXT))

    def test_mistakes(self, folder):
        for path, options, message in (
            ("nowhere", {}, r"nowhere does not exist \(looked for \*\*/\*\); give a text file or a folder"),
            ("", {"pattern": "*.md"}, r"has no such files \(looked for \*.md\)"),
            ("", {"pattern": "t*.txt"}, r"named for test, train but none for valid: add them, .* by_name=False"),
            ("train.txt", {"test_share": 0.0}, r"split 'test' of text .*train.txt has no text"),
            ("train.txt", {"valid_share": 0.7, "test_share": 0.4}, r"test_share=0.4 of TextFiles must be between 0"),
            ("", {"tokenizer": "words(vocab_size=1)"}, "vocab_size=1 of WordsRecipe"),
        ):
            with pytest.raises(UserError, match=message):
                corpus(folder / path, **options)
        with pytest.raises(UserError, match=r"sequence_length=500000 .* 'train' of TextFiles"):
            TextFiles(path=str(folder), sequence_length=500_000)

    def test_where_data_lies(self, folder, monkeypatch):
        with pytest.raises(UserError, match=r"no text: .*/data/text does not exist"):
            TextFiles()
        (folder / "home").mkdir()
        (folder / "train.txt").rename(folder / "home" / "text")
        monkeypatch.setenv("JATTN_DATA", str(folder / "home"))
        assert whole(TextFiles(sequence_length=8)) == "".join(made.LINES[:50])


class TestCache:
    def test_tokenised_once(self, folder, monkeypatch):
        first = corpus(folder, tokenizer="bpe(vocab_size=300)")
        monkeypatch.setattr(TextFiles, "make", lambda corpus, writer: pytest.fail("made again"))
        again = TextFiles(path=str(folder), tokenizer="bpe(vocab_size=300)", sequence_length=9)
        assert isinstance(again.tokens("train"), np.memmap)
        np.testing.assert_array_equal(again.tokens("train"), first.tokens("train"))
        assert again.tokens("train").dtype == np.uint16
        assert again.vocab_size == first.vocab_size > 256

    def test_anew_when_the_text_changes(self, folder):
        before = corpus(folder, tokenizer="characters")
        with (folder / "valid.txt").open("a", encoding="utf-8") as file:
            file.write("a new line with ☃\n")
        after = corpus(folder, tokenizer="characters")
        assert after.vocab_size == before.vocab_size + 1
        assert text_of(after, "valid").endswith("☃\n")

    def test_anew_when_a_tokenizer_s_file_changes(self, folder, tmp_path):
        bert = made.bert_vocabulary(tmp_path / "bert")
        before = corpus(folder, tokenizer=str(bert))
        with (bert / "vocab.txt").open("a") as file:
            file.write("The\nriver\n")
        after = corpus(folder, tokenizer=str(bert))
        assert after.vocab_size == before.vocab_size + 2
        assert len(after.tokens("train")) == len(before.tokens("train"))  # [UNK] before
        assert (after.tokens("train") != before.tokens("train")).any()

    def test_a_corpus_travels_without_its_tokens(self, folder):
        found = corpus(folder)
        assert len(pickle.dumps(found)) < 1000
        assert pickle.loads(pickle.dumps(found)) == found

    def test_what_a_run_keeps(self, folder):
        assert corpus(folder).kept() == {}
        kept = corpus(folder, tokenizer="words(vocab_size=9)").kept()
        assert list(kept) == ["tokenizer.json"]
        (folder / "kept.json").write_text(kept["tokenizer.json"])
        ready = corpus(folder, tokenizer=str(folder / "kept.json"), pattern="*.txt")
        np.testing.assert_array_equal(
            ready.tokens("test"), corpus(folder, tokenizer="words(vocab_size=9)").tokens("test")
        )

    def test_types(self):
        assert [smallest_type(count) for count in (2, 256, 257, 65_536, 65_537)] == [
            np.uint8, np.uint8, np.uint16, np.uint16, np.uint32,
        ]  # fmt: skip


def wikitext(path, cls=WikiText2, tokenizer="bytes", **options):
    return cls(path=str(path), tokenizer=tokenizer, sequence_length=8, **options)


class TestWikiText:
    def test_the_same_text_from_every_format(self, tmp_path, monkeypatch):
        raw, words = "wikitext-2-raw", "wikitext-2"
        places = [
            (made.wikitext(tmp_path / "a"), True),
            (made.wikitext(tmp_path / "b" / raw).parent, True),
            (made.wikitext(tmp_path / "c", "tokens"), False),
            (made.wikitext(tmp_path / "d" / words, "tokens").parent, False),
            (made.wikitext_zip(tmp_path / "e", raw), True),
            (made.wikitext_zip(tmp_path / "f", words) / "wikitext-2-v1.zip", False),
            (made.wikitext_parquet(tmp_path / "g"), True),
            (made.wikitext_parquet(tmp_path / "h" / f"{raw}-v1").parent, True),
            (made.wikitext_csv(tmp_path / "i"), False),
        ]
        for place, is_raw in places:
            found = wikitext(place, raw=is_raw)
            for split, lines in made.WIKI.items():
                assert text_of(found, split) == "".join(lines), place
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        write = lambda snapshot: made.wikitext_parquet(snapshot / "wikitext-103-raw-v1")  # noqa: E731
        made.hub_download(tmp_path / "hub", "Salesforce/wikitext", write)
        hub = WikiText103(source="huggingface", tokenizer="characters", sequence_length=8)
        assert text_of(hub, "test") == "".join(made.WIKI["test"])

    def test_what_the_source_reads_of_to_csv(self, tmp_path):
        place = made.wikitext_csv(tmp_path)
        found = wikitext(place, raw=False, as_published=True)
        assert text_of(found, "test").startswith('""\n" = Valkyria = \n"\n" Senjō no 0 . \n"\n')

    def test_the_first_lines_of_the_training_split(self, tmp_path):
        for place in (made.wikitext(tmp_path / "files"), made.wikitext_parquet(tmp_path / "table")):
            found = wikitext(place, train_lines=5)
            assert text_of(found, "train") == "".join(made.WIKI["train"][:5])
            assert text_of(found, "valid") == "".join(made.WIKI["valid"])
            assert text_of(wikitext(place, train_lines=1000), "train") == "".join(made.WIKI["train"])
        with pytest.raises(UserError, match="train_lines=0"):
            wikitext(place, train_lines=0)

    def test_rows_as_the_source_of_natural_attention_cuts_them(self, tmp_path):
        words = [END, "A", "lobster", "=", "Homarus", "0", "1", "2", ".", "?"]
        vocabulary = {word: token for token, word in enumerate(words)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "removed")  # a newline is a token, too: "?"
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        place, name = str(made.wikitext(tmp_path / "text")), str(tmp_path / "tokenizer.json")

        def rows(length, **options):
            return WikiText2(path=place, tokenizer=name, sequence_length=length, row_length=length, **options)

        index = np.array([0, 1, 2])
        found = rows(8, ahead=2)
        batch = found.examples("valid", index, index)
        # " \n" is left out; "= Homarus =\n" is followed by a line of five tokens, which does not fit into its row.
        expected = np.array([[3, 4, 3, 9, 0, 0, 0, 0, 0], [1, 2, 5, 8, 9, 0, 0, 0, 0], [1, 2, 6, 8, 9, 0, 0, 0, 0]])
        np.testing.assert_array_equal(batch["inputs"], expected[:, :-1])
        np.testing.assert_array_equal(batch["targets"][:, :-1], expected[:, 2:])
        np.testing.assert_array_equal(batch["weight"], [[1, 1, 1, 1, 1, 1, 1, 0]] * 3)
        assert (found.size("valid"), found.task.tokens_per_byte, found.is_running_text) == (13, None, False)
        # A line of ten tokens is cut off at eight, which are a row; its ninth token is the end of text.
        batch = rows(8).examples("train", index[1:2], index[1:2])
        np.testing.assert_array_equal(batch["targets"], [[9, 9, 9, 9, 9, 9, 5, 0]])
        batch = rows(10).examples("valid", index[1:2], index[1:2])
        np.testing.assert_array_equal(batch["inputs"], [[1, 2, 6, 8, 9, 1, 2, 7, 8, 9]])
        with pytest.raises(
            UserError, match=r"row_length=8 needs a tokenizer with <\|endoftext\|>, which 'bytes' has not"
        ):
            wikitext(place, row_length=8)
        with pytest.raises(UserError, match="row_length=9 of WikiText2 must be sequence_length=8"):
            wikitext(place, row_length=9)

    def test_bert_s_marks(self, tmp_path):
        bert = made.bert_vocabulary(tmp_path / "bert")
        found = wikitext(made.wikitext(tmp_path, "tokens"), tokenizer=str(bert), raw=False, bert_marks=True)
        assert text_of(found, "train").startswith('[SEP] = Robert [UNK] = [SEP] [SEP] Robert " Bob " [UNK] acts')
        assert found.task_of("train").tokens_per_byte == len(found.tokens("train")) / len(
            "".join(made.WIKI["train"]).encode()
        )
        with pytest.raises(UserError, match=r"bert_marks=True needs a tokenizer with \[SEP\] and \[UNK\]"):
            wikitext(tmp_path, raw=False, bert_marks=True)

    def test_mistakes(self, tmp_path):
        with pytest.raises(
            UserError,
            match=r"wikitext2 is not in .* \(looked for wiki.train.raw, .*v1.zip\): get it with .*data get wikitext2",
        ):
            wikitext(tmp_path)
        made.wikitext(tmp_path)
        with pytest.raises(UserError, match=r"looked for wiki.train.tokens.*data get wikitext2"):
            wikitext(tmp_path, raw=False)
        (tmp_path / "wiki.test.raw").unlink()
        with pytest.raises(UserError, match=r"has wiki.train.raw, wiki.valid.raw but not wiki.test.raw"):
            wikitext(tmp_path)
        table = made.wikitext_csv(tmp_path / "csv") / "wiki.train.tokens"
        table.write_bytes(table.read_bytes()[:-3])
        with pytest.raises(UserError, match=r"wiki.train.tokens begins like a table of to_csv but is none \(.*end of"):
            wikitext(tmp_path / "csv", raw=False)


@pytest.fixture
def enwik8(tmp_path, monkeypatch):
    made.enwik8(tmp_path / "raw", monkeypatch)
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "enwik8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", made.ENWIK8)
    return tmp_path


class TestEnwik8:
    @pytest.mark.parametrize("place", ["raw", "raw/enwik8", "zip", "zip/enwik8.zip"])
    def test_bytes_are_divided_by_bytes(self, enwik8, place):
        found = Enwik8(path=str(enwik8 / place), sequence_length=8)
        assert [found.tokens(split).tobytes() for split in found.splits] == [
            made.ENWIK8[:900], made.ENWIK8[900:950], made.ENWIK8[950:],
        ]  # fmt: skip
        assert found.vocab_size == 256

    def test_characters_are_divided_as_the_source_divides_them(self, enwik8, monkeypatch):
        text = made.ENWIK8.decode()
        monkeypatch.setattr("jattn.data.text.files.LIMIT", 11)  # splits end within pieces, and where pieces end
        found = Enwik8(path=str(enwik8 / "raw"), tokenizer="characters", sequence_length=8)
        ends = [0, int(len(text) * 0.9), int(len(text) * 0.95), len(text)]
        table = {character: token for token, character in enumerate(sorted(set(text)))}
        for split, start, stop in zip(found.splits, ends[:-1], ends[1:], strict=True):
            assert found.tokens(split).tolist() == [table[character] for character in text[start:stop]]

    def test_mistakes(self, enwik8, monkeypatch):
        with pytest.raises(UserError, match=r"enwik8 is not in .*\(looked for enwik8, enwik8.zip\).*mattmahoney"):
            Enwik8(path=str(enwik8))
        (enwik8 / "raw" / "enwik8").write_bytes(made.ENWIK8[:-1])
        with pytest.raises(
            UserError, match="enwik8 has 999 bytes instead of 1,000: remove it, and get it again with `python -m"
        ):
            Enwik8(path=str(enwik8 / "raw"))
        (enwik8 / "raw" / "enwik8").write_bytes(made.ENWIK8[:-1] + b"x")
        with pytest.raises(UserError, match=r"enwik8 is damaged .its SHA-1 is not"):
            Enwik8(path=str(enwik8 / "raw"))
        (enwik8 / "zip" / "enwik8.zip").write_bytes((enwik8 / "zip" / "enwik8.zip").read_bytes()[:-30])
        with pytest.raises(
            UserError, match=r"enwik8.zip is truncated or damaged.*get it again with .*data get enwik8 --path"
        ):
            Enwik8(path=str(enwik8 / "zip"))


def test_from_the_config(folder):
    config = DataConfig(
        name="text", source="folder", path=str(folder), tokenizer="characters", options="sequence_length=9"
    )
    found = build(config)
    assert found == TextFiles(path=str(folder), tokenizer="characters", sequence_length=9)
    assert isinstance(found, Corpus)
    batch = train_batch(found, 0, 3, 4)
    assert batch["inputs"].shape == (4, 9)
    with pytest.raises(UserError, match=r"listops takes no tokenizer, but data.tokenizer='bytes'"):
        build(DataConfig(name="listops", tokenizer="bytes"))
    with pytest.raises(UserError, match="unknown option of data set text 'tokenizer'"):
        build(dataclasses.replace(config, options="tokenizer='bytes'"))
