"""The letters A-Z of three fonts as signed distance fields, rasterized with Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from saccade.naming import suggestion

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CELL = 96
"""Side of a glyph's cell in texels; the letter's box is centred in it."""
CAP = 56
"""Cap height in texels."""
TRACKING = 0.25
"""Space added between letters, in cap heights, so that neighbours stay separate at 32 px."""

_FILES = {
    "roboto": ("font_roboto", "Roboto-Bold.ttf"),
    "source-sans": ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    "hanken-grotesk": ("font_hanken_grotesk", "HankenGrotesk-Bold.otf"),
}
FONTS = tuple(_FILES)


@dataclass(frozen=True)
class Atlas:
    """All glyphs of all fonts; lengths are in cap heights."""

    distance: np.ndarray
    """Signed distance to the outline, negative inside the ink: ``[fonts, 26, CELL, CELL]``."""
    advance: np.ndarray
    """Width of a letter ``[fonts, 26]``."""
    drop: np.ndarray
    """Offset of the letter's centre below the middle of the cap height ``[fonts, 26]``."""


@cache
def atlas() -> Atlas:
    """The glyphs of all fonts, rasterized at the first call (about 0.3 s)."""
    glyphs = [[_glyph(font, letter) for letter in LETTERS] for font in FONTS]
    stack = lambda k: np.array([[g[k] for g in row] for row in glyphs], np.float32)
    return Atlas(stack(0), stack(1), stack(2))


def width(string: str, font: str) -> float:
    """Width of a line of text in cap heights. ValueError for an unknown font or a letter outside A-Z."""
    letters = indices(string)
    return float(atlas().advance[font_index(font), letters].sum() + TRACKING * (len(letters) - 1))


def indices(string: str) -> np.ndarray:
    """Indices of the letters in A-Z; ValueError for anything else."""
    wrong = [letter for letter in string if letter not in LETTERS]
    if wrong or not string:
        raise ValueError(f"text {string!r} must be made of capital letters A-Z")
    return np.array([ord(letter) - ord("A") for letter in string])


def font_index(font: str) -> int:
    """Index of a font in FONTS; ValueError for an unknown one."""
    if font not in FONTS:
        raise ValueError(f"unknown font '{font}'{suggestion(font, FONTS)}")
    return FONTS.index(font)


@cache
def _face(font: str) -> Any:
    from PIL import ImageFont

    module, name = _FILES[font]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        package = module.replace("_", "-")
        raise ValueError(f"font {font!r} needs a package: pip install {package}")
    path = str(Path(spec.origin).parent / "files" / name)
    _, top, _, bottom = ImageFont.truetype(path, 1000).getbbox("H")
    return ImageFont.truetype(path, round(1000 * CAP / (bottom - top)))


def _glyph(font: str, letter: str) -> tuple[np.ndarray, float, float]:
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    face = _face(font)
    left, top, right, bottom = face.getbbox(letter)
    cap_top, cap_bottom = face.getbbox("H")[1::2]
    picture = Image.new("L", (CELL, CELL))
    corner = ((CELL - right + left) // 2 - left, (CELL - bottom + top) // 2 - top)
    ImageDraw.Draw(picture).text(corner, letter, fill=255, font=face)
    ink = np.asarray(picture) > 127
    distance = distance_transform_edt(~ink) - distance_transform_edt(ink)
    drop = ((top + bottom) - (cap_top + cap_bottom)) / 2 / CAP
    return distance / CAP, (right - left) / CAP, drop
