"""Pairs of sketch and photo from JSON lines, the sketches as arrays of strokes or as SVG.

    {"sketch": "7_1.svg", "photo": "photos/7.png"}
    {"sketch": "7_2.npy", "photo": "photos/7.png", "coordinates": "absolute", "source": "boots"}

Paths are relative to the file. An array is stroke-5 ``[points, 5]`` or stroke-3 ``[points, 3]`` (x, y, then pen
states); "coordinates" says whether x and y are "offsets" from the point before, Sketch-RNN's way and the default, or
"absolute". Sketches are scaled to fill the canvas. Photos that several lines name are one photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.worlds.images import open_picture
from saccade.worlds.sketches.pairs import Pairs
from saccade.worlds.sketches.paths import read_svg
from saccade.worlds.sketches.strokes import Sketch, fitted, from_stroke5
from saccade.worlds.text_files import entry_of, error_at, file_of, need, parse_lines

COORDINATES = ("offsets", "absolute")


@dataclass(frozen=True)
class Photos:
    """Photo files, each read when it is asked for: white around it to make it square, then ``size`` pixels a side."""

    file: Path
    places: tuple[tuple[int, Path], ...]
    size: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 ``[size, size, 3]``. ValueError "FILE:LINE: why" for a damaged picture."""
        from PIL import Image, ImageOps

        line, path = self.places[index]
        with error_at(self.file, line):
            picture = Image.fromarray(open_picture(path))
        return np.array(ImageOps.pad(picture, (self.size, self.size), color=(255, 255, 255)))


def load(file: str | Path, size: int) -> Pairs:
    """The pairs of a file, photos in ``size`` pixels a side. ValueError "FILE:LINE: why" for a line that does not
    fit.
    """
    file = Path(file).expanduser()
    numbers: dict[Path, tuple[int, int]] = {}
    sketches, truth, sources = [], [], []
    for line, (sketch, photo, source) in parse_lines(file, lambda text: _entry(text, file), "sketches"):
        number, _ = numbers.setdefault(photo, (len(numbers), line))
        sketches.append(sketch), truth.append(number), sources.append(source)
    return Pairs(
        sketches, truth, sources, Photos(file, tuple((line, path) for path, (_, line) in numbers.items()), size)
    )


def _entry(text: str, file: Path) -> tuple[Sketch, Path, str]:
    entry = entry_of(text)
    sketch, photo = (file_of(entry, name, file.parent) for name in ("sketch", "photo"))
    how = entry.get("coordinates", COORDINATES[0])
    need(how in COORDINATES, f"coordinates {how!r} are none of {', '.join(COORDINATES)}")
    return read_sketch(sketch, how == "absolute"), photo, str(entry.get("source", file.stem))


def read_sketch(path: Path, absolute: bool = False) -> Sketch:
    """A sketch file, ``*.svg`` or an array ``*.npy``, scaled to the canvas. ValueError where it cannot be read."""
    try:
        if path.suffix.lower() == ".svg":
            return fitted(read_svg(path.read_text(encoding="utf-8")))
        return fitted(from_stroke5(_stroke5(np.load(path, allow_pickle=False), absolute)))
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _stroke5(rows: np.ndarray, absolute: bool) -> np.ndarray:
    """Stroke-5 in absolute coordinates from what a file holds."""
    if rows.ndim != 2 or rows.shape[1] not in (3, 5) or not len(rows):
        raise ValueError(f"an array of strokes is [points, 5] or [points, 3], not {list(rows.shape)}")
    if not np.issubdtype(rows.dtype, np.number) or not np.isfinite(rows).all():
        raise ValueError("strokes must be finite numbers")
    rows = rows.astype(np.float64)
    if rows.shape[1] == 3:
        lifted = rows[:, 2:] > 0.5
        rows = np.concatenate([rows[:, :2], ~lifted, lifted, np.zeros_like(lifted)], 1)
    return rows if absolute else np.concatenate([rows[:, :2].cumsum(0), rows[:, 2:]], 1)
