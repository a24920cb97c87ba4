"""Picture files as others make them: transparent, deep, rotated, damaged, hostile."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.models.pictures import LARGEST, open_picture

NOISE = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red_disc() -> Image.Image:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = [255, 0, 0, 255]
    return Image.fromarray(rgba)


@pytest.mark.parametrize(
    "content",
    [
        encoded(red_disc(), "PNG"),
        encoded(red_disc().quantize(4), "PNG"),
        encoded(red_disc(), "WEBP", lossless=True),
        encoded(red_disc().convert("LA"), "PNG"),
    ],
)
def test_what_is_transparent_is_white(content):
    pixels = open_picture(content)
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[16, 16].tolist() != [255, 255, 255]


def test_sixteen_bits_are_scaled_not_cut():
    deep = np.array([[0, 257 * 100, 65_535]], np.uint16)
    assert open_picture(encoded(Image.fromarray(deep), "PNG"))[0, :, 0].tolist() == [0, 100, 255]


def test_a_picture_is_turned_as_its_camera_was():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).shape == (40, 20, 3)


def test_fractions_and_deeper_pixels_are_refused():
    for odd in (np.zeros((2, 2), np.float32), np.full((2, 2), 1 << 20, np.int32)):
        with pytest.raises(ValueError, match="cannot be read as a picture: its pixels"):
            open_picture(encoded(Image.fromarray(odd), "TIFF"))


def test_a_picture_is_refused_by_its_size_before_it_is_decoded():
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        open_picture(bomb)
    with pytest.raises(ValueError, match=f"9000 x 9000 pixels are more than {LARGEST}"):
        open_picture(bomb.replace(head, chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))))


def test_no_program_outside_and_no_pipe_is_opened(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (("a", "cannot identify"), ("pipe", "no regular file"), ("none", "no such file")):
        with pytest.raises(ValueError, match=f"{name}.png: cannot be read as a picture: .*{why}"):
            open_picture(tmp_path / f"{name}.png")


def test_damaged_files_are_read_or_refused_in_one_line():
    rng = random.Random(0)
    kinds = {kind: encoded(Image.fromarray(NOISE), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")}
    for _ in range(600):
        data = bytearray(kinds[rng.choice(list(kinds))])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(data), rng.choice([40, len(data)])))
            if rng.random() < 0.6:
                data[at] = rng.randrange(256)
            else:
                data = data[: max(at, 1)]
        try:
            assert open_picture(bytes(data)).dtype == np.uint8
        except ValueError as error:
            assert "\n" not in str(error)
