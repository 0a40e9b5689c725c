"""Tokenizers: exact, learned from the training part, and never replaced by another one."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jattn.data.text.recipes import TOKENIZERS, parse
from jattn.data.text.stored import from_json, load
from jattn.data.text.tokenizers import Bytes
from jattn.errors import UserError
from tests.data.text.made import LINES, PARAGRAPH, TEXT, bert_vocabulary, hub_download

HELD_OUT = "An unseen ☃ word\n"


def fit(name, train=LINES, everything=(*LINES, HELD_OUT)):
    stream = lambda rows: lambda: iter([[row.encode() for row in rows]])  # noqa: E731
    return parse(name).fit(stream(train), stream(everything))


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe(vocab_size=300)"])
@settings(max_examples=20, deadline=None)
@given(text=st.lists(st.sampled_from([*HELD_OUT, *PARAGRAPH, "past", " flows", "\n\n"]), max_size=20).map("".join))
def test_text_comes_back(name, text):
    tokenizer = CACHED.setdefault(name, fit(name))
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) == 0 or 0 <= tokens.min() <= tokens.max() < tokenizer.vocab_size


CACHED = {}


@pytest.mark.parametrize("name", [*TOKENIZERS, "words(vocab_size=5, clean=False)", "bpe(vocab_size=300)"])
def test_json_holds_all_of_a_tokenizer(name):
    tokenizer = fit(name)
    again = from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.digest() == tokenizer.digest()
    for text in (TEXT, HELD_OUT):
        np.testing.assert_array_equal(again.encode(text), tokenizer.encode(text))


@pytest.mark.parametrize("name", [*TOKENIZERS, "bpe(vocab_size=300)"])
def test_batches_change_nothing(name):
    tokenizer = fit(name)
    rows = [line.encode() for line in LINES]
    whole = tokenizer.encode_batch(rows)
    parts = [tokenizer.encode_batch(rows[start : start + 7]) for start in range(0, len(rows), 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(tokenizer.encode_batch([])) == 0


def test_bytes():
    assert Bytes().encode("é").tolist() == [0xC3, 0xA9]
    assert Bytes().decode([0xC3, 0x28]) == "\ufffd("


def test_characters_are_those_of_the_whole_text_in_order():
    tokenizer = fit("characters", ["ba"], ["ba", "c東"])
    assert tokenizer.encode("abc東").tolist() == [0, 1, 2, 3]
    for unknown in ("d", "\uffff", "a\U0001f600"):
        with pytest.raises(UserError, match="is not among the 4 of the tokenizer's table"):
            tokenizer.encode(unknown)


def test_words_are_cleaned_as_the_source_cleans_them():
    tokenizer = fit("words(vocab_size=4)", ["It's GOOD,<br />good<BR/>good... so\tso", " its 東 1-2"])
    # its: It's, its; good: GOOD, good, good; so: so, so; 12: 1-2
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("good its so 12 never").tolist() == [1, 2, 3, 0, 0]
    assert tokenizer.decode([1, 0]) == "good <unk>"


def test_words_as_they_are():
    tokenizer = fit("words(clean=False, vocab_size=9)", ["A a A .\n"])
    assert tokenizer.encode("a A\n. B").tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("name", ["words", "bpe(vocab_size=400)"])
def test_the_vocabulary_is_the_training_part_s(name):
    other = fit(name, everything=(*LINES, "zebra " * 1000))
    assert other.digest() == fit(name).digest()
    assert fit(name, train=(*LINES, "zebra " * 1000)).digest() != other.digest()


def test_bpe_learns_the_most_frequent_pair_first():
    tokenizer = fit("bpe(vocab_size=257)", ["ababab ab\n"])
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("abab").tolist() == [256, 256]
    assert fit("bpe(vocab_size=999)", ["ab ab\n"]).vocab_size < 262  # no more pairs occur twice


def test_bert_from_its_vocabulary(tmp_path):
    bert = load(str(bert_vocabulary(tmp_path)), TOKENIZERS)
    ids = bert.encode("Robert acts lobster[SEP]lobsters zebra[UNK]")
    pieces = (tmp_path / "vocab.txt").read_text().splitlines()
    expected = ["Robert", "acts", "lobster", "[SEP]", "lobster", "##s", "[UNK]", "[UNK]"]
    assert [pieces[token] for token in ids] == expected
    assert bert.token_id("[SEP]") == 3
    assert bert.token_id("[NONE]") is None
    (tmp_path / "vocab.txt").write_text("[UNK]\n[SEP]\n[CLS]\nrobert\nacts\n")
    assert load(str(tmp_path / "vocab.txt"), TOKENIZERS).encode("Robert Acts").tolist() == [3, 4]  # not cased


def test_gpt2_from_its_two_files(tmp_path):
    trained = fit("bpe(vocab_size=300)")
    model = json.loads(trained.to_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab.txt nor both vocab\.json and merges\.txt"):
        load(str(tmp_path), TOKENIZERS)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    np.testing.assert_array_equal(load(str(tmp_path), TOKENIZERS).encode(TEXT), trained.encode(TEXT))


def test_downloads_of_the_hub(tmp_path, monkeypatch):
    trained = fit("bpe(vocab_size=300)")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    truncating = tokenizers.Tokenizer.from_str(trained.to_json())
    truncating.enable_truncation(4)
    truncating.enable_padding(length=8)
    write = lambda folder: truncating.save(str(folder / "tokenizer.json"))  # noqa: E731
    hub_download(tmp_path, "someone/small", write, "models")
    ready = parse("someone/small").tokenizer
    np.testing.assert_array_equal(ready.encode(TEXT), trained.encode(TEXT))  # neither cut nor padded
    message = (
        "tokenizer 'someone/large' is none of bytes, characters, words, bpe, no file, and not among the downloads of "
        f"the Hugging Face hub .looked in {tmp_path}.: get it with `hf download someone/large tokenizer.json`.*'bpe"
    )
    with pytest.raises(UserError, match=message):
        parse("someone/large")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byte", r"tokenizer 'byte' \(did you mean 'bytes'\?\)"),
        ("byte()", "unknown tokenizer 'byte': did you mean 'bytes'"),
        ("bytes, words()", "cannot read|names 2 tokenizers|is none of"),
        ("words(a=1), words()", "unknown option|names 2 tokenizers: name one"),
        ("words(size=3)", "unknown option of tokenizer words 'size'.*clean, vocab_size"),
        ("words(vocab_size='3')", "vocab_size='3' of tokenizer words must be of type int"),
        ("words(vocab_size=1)", "option vocab_size=1 of WordsRecipe must be 2 or more"),
        ("bpe(vocab_size=256)", "option vocab_size=256 of BPERecipe must be 257 or more"),
        ("./here", "tokenizer './here' does not exist"),
        ("tokenizer.json", "tokenizer 'tokenizer.json' does not exist"),
        ("a b/c", "tokenizer 'a b/c' is none of"),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"jattn": "words"}', '{"jattn": "other"}', "\ufeff"])
def test_what_is_no_tokenizer(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer '.*' cannot be read: this is no tokenizer"):
        load(str(tmp_path), TOKENIZERS)
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"\[UNK\] is missing"):
        load(str(tmp_path / "vocab.txt"), TOKENIZERS)
