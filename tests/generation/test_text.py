"""Text that streams is whole characters, and joins to the whole text."""

import numpy as np
import pytest

from jattn.data.text.subwords import train_bpe
from jattn.data.text.tokenizers import Bytes, Characters, Words
from jattn.generation import TextStream

TEXT = "Über 東京 fliegt 🦆, naïve."
BPE = train_bpe(iter(["the river over the city"] * 3), 270)
TOKENIZERS = {
    "bytes": Bytes(),
    "bpe": BPE,
    "characters": Characters("".join(sorted(set(TEXT)))),
    "words": Words(TEXT.split(), clean=False),
}


def streamed(tokenizer, prompt, tokens):
    stream = TextStream(tokenizer, prompt)
    pieces = [stream.feed(tokens[:n]) for n in range(len(tokens) + 1)]
    return [*pieces, stream.end(tokens)]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_are_whole_characters_and_join_to_the_text(name):
    tokens = TOKENIZERS[name].encode(TEXT).tolist()
    for cut in (1, 3):
        # A cut within a character: what completes it belongs to the continuation.
        pieces = streamed(TOKENIZERS[name], tokens[:cut], tokens[cut:])
        shown = TOKENIZERS[name].decode(tokens[:cut]).removesuffix("�")
        assert shown + "".join(pieces) == TEXT
        assert "�" not in "".join(pieces)
    assert len(pieces) > 3


def test_a_character_that_is_never_finished_is_shown_at_the_end():
    duck = list("🦆".encode())
    assert streamed(Bytes(), [65], [66, *duck[:3]]) == ["", "B", "", "", "", "�"]


def test_bytes_that_are_no_text_do_not_hold_back_what_follows():
    assert "".join(streamed(Bytes(), [65], [0xFF, 66, 0xFE, 0xFE, 67])) == "�B��C"
    assert streamed(Bytes(), [65], np.array([0xFE, 0xFE], np.int32)) == ["", "", "�", "�"]
