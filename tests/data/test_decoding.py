"""Pictures from the bytes of files, resized as PIL does."""

import io

import numpy as np
import pytest
from PIL import Image

from jattn.data.decoding import decode
from tests.data.files import encoded, pictures


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_as_it_is(form):
    image = pictures(1, 10)[0][0][:20]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode(buffer.getvalue()), image)


def test_every_picture_becomes_a_colour_picture():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P"), Image.fromarray(grey).convert("LA")):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        np.testing.assert_array_equal(decode(buffer.getvalue()), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("shape", [(24, 36), (36, 24), (24, 24), (8, 12), (8, 8)])
def test_the_shorter_side_is_resized_and_the_middle_kept(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    top, left = ((length - min(shape)) // 2 for length in shape)
    middle = image[top : top + min(shape), left : left + min(shape)]
    expected = np.asarray(Image.fromarray(middle).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(encoded(image), 8), expected)


def test_a_large_jpeg_is_read_at_a_lower_resolution():
    rows = np.linspace(0, 255, 512).astype(np.uint8)
    image = np.broadcast_to(rows[:, None, None], (512, 512, 3))
    found = decode(encoded(image, "JPEG"), 16).astype(int)
    assert found.shape == (16, 16, 3)
    expected = image.reshape(16, 32, 16, 32, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_damaged_pictures(form):
    content = encoded(pictures(1, 10)[0][0], form)
    for damaged in (content[:-200], content[:10], b"", b"not a picture"):
        with pytest.raises(ValueError, match=r"^\w+: .|formats that PIL reads, \d+ bytes"):
            decode(damaged, 16)
