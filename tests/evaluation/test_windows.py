"""Which tokens overlapping windows count."""

import numpy as np
import pytest

from jattn.errors import UserError
from jattn.evaluation.windows import Windows, windows_of
from jattn.models import LanguageModel
from tests.data.test_corpus import Counting


def counted(windows, length, batch_size=3):
    """(window, context, token predicted) of all that is counted in a text of tokens 0, 1, 2 ..."""
    tokens = np.arange(length)
    found = []
    batches = -(-windows.count(length - 1) // batch_size)
    for n in range(batches):
        batch = windows.batch(tokens, n, batch_size)
        assert {name: x.dtype for name, x in batch.items()} == {
            "inputs": np.int32, "targets": np.int32, "weight": np.float32, "example_id": np.int32,
        }  # fmt: skip
        for row, place in np.argwhere(batch["weight"]).tolist():
            assert batch["targets"][row, place] == batch["inputs"][row, place] + 1
            found.append((n * batch_size + row, place + 1, int(batch["targets"][row, place])))
    assert not windows.batch(tokens, batches, batch_size)["weight"].any()
    return found


@pytest.mark.parametrize(
    ("length", "stride", "size"), [(8, 8, 41), (8, 3, 41), (8, 1, 20), (7, 5, 8), (7, 2, 5), (1, 1, 4)]
)
def test_every_token_is_counted_once_with_the_most_context(length, stride, size):
    found = counted(Windows(length, stride, "tokens"), size)
    assert sorted(token for *_, token in found) == list(range(1, size))
    for _, context, token in found:
        assert context >= min(token, length - stride + 1)


def test_windows_are_averaged_whole():
    found = counted(Windows(8, 3, "windows"), 23)  # of 22 predicted tokens, windows begin at 0, 3, ... 12
    assert [(window, context) for window, context, _ in found] == [(w, c) for w in range(5) for c in range(1, 9)]
    assert [token for *_, token in found] == [3 * w + c for w in range(5) for c in range(1, 9)]
    assert len(counted(Windows(8, 3, "windows"), 24)) == 6 * 8


def test_windows_are_those_of_a_text_whose_next_token_is_predicted():
    model = LanguageModel(vocab_size=11, width=8, depth=1, num_heads=2)
    assert windows_of(Counting(sequence_length=8), model, "valid", None, 3, "tokens") == Windows(8, 3, "tokens")
    with pytest.raises(UserError, match="those of a running text"):
        windows_of(Counting(sequence_length=8, ahead=2), model, "valid", None, 3, "tokens")
