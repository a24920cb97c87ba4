"""Pairs of sketch and photo from a file of JSON lines, with sketches as arrays of strokes or as SVG files.

    {"sketch": "7_1.svg", "photo": "photos/7.png"}
    {"sketch": "7_2.npy", "photo": "photos/7.png", "coordinates": "absolute", "source": "boots"}

Paths are relative to the file. An array is stroke-5 ``[points, 5]`` or stroke-3 ``[points, 3]`` (x, y, then pen
states); x and y are "offsets" from the point before (the default, as in Sketch-RNN) or "absolute". Sketches are scaled
to fill the canvas. Lines with the same photo path share one photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.models.pictures import open_picture
from saccade.models.tables import object_of, read_text
from saccade.worlds.sketches.pairs import SketchPairs
from saccade.worlds.sketches.strokes import Sketch, fit_to_canvas, from_stroke5
from saccade.worlds.sketches.svg import sketch_from_svg
from saccade.worlds.text_files import ensure, error_at, file_of, parse_lines

COORDINATES = ("offsets", "absolute")


@dataclass(frozen=True)
class PhotoFiles:
    """Photo files, loaded on access, padded with white to squares and resized to ``size`` pixels a side."""

    file: Path
    entries: tuple[tuple[int, Path], ...]
    """Line in the file and path of each photo."""
    size: int

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int, /) -> np.ndarray:
        """The photo uint8 ``[size, size, 3]``. ValueError "FILE:LINE: reason" for a damaged picture."""
        from PIL import Image, ImageOps

        line, path = self.entries[index]
        with error_at(self.file, line):
            picture = Image.fromarray(open_picture(path))
        return np.array(ImageOps.pad(picture, (self.size, self.size), color=(255, 255, 255)))


def load_pairs(file: str | Path, size: int) -> SketchPairs:
    """The pairs of a file, with photos of ``size`` pixels a side. ValueError "FILE:LINE: reason" for a bad line."""
    file = Path(file).expanduser()
    photos: dict[Path, tuple[int, int]] = {}
    sketches, photo_index, sources = [], [], []
    for line, (sketch, photo, source) in parse_lines(file, lambda text: _entry(text, file), "sketches"):
        index, _ = photos.setdefault(photo, (len(photos), line))
        sketches.append(sketch)
        photo_index.append(index)
        sources.append(source)
    entries = tuple((line, path) for path, (_, line) in photos.items())
    return SketchPairs(sketches, photo_index, sources, PhotoFiles(file, entries, size))


def _entry(text: str, file: Path) -> tuple[Sketch, Path, str]:
    entry = object_of(text)
    sketch, photo = (file_of(entry, name, file.parent) for name in ("sketch", "photo"))
    coordinates = entry.get("coordinates", COORDINATES[0])
    ensure(coordinates in COORDINATES, f"coordinates {coordinates!r} are none of {', '.join(COORDINATES)}")
    return load_sketch(sketch, coordinates == "absolute"), photo, str(entry.get("source", file.stem))


def load_sketch(path: Path, absolute: bool = False) -> Sketch:
    """A sketch file, ``*.svg`` or an array ``*.npy``, scaled to the canvas. ValueError if it cannot be loaded."""
    try:
        if path.suffix.lower() == ".svg":
            return fit_to_canvas(sketch_from_svg(read_text(path)))
        return fit_to_canvas(from_stroke5(_stroke5(np.load(path, allow_pickle=False), absolute)))
    except (OSError, EOFError, MemoryError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _stroke5(rows: np.ndarray, absolute: bool) -> np.ndarray:
    """Stroke-5 in absolute coordinates from the array of a file."""
    if rows.ndim != 2 or rows.shape[1] not in (3, 5) or not len(rows):
        raise ValueError(f"an array of strokes is [points, 5] or [points, 3], not {list(rows.shape)}")
    if not np.issubdtype(rows.dtype, np.number) or not np.isfinite(rows).all():
        raise ValueError("strokes must be finite numbers")
    rows = rows.astype(np.float64)
    if rows.shape[1] == 3:
        lifted = rows[:, 2:] > 0.5
        rows = np.concatenate([rows[:, :2], ~lifted, lifted, np.zeros_like(lifted)], 1)
    return rows if absolute else np.concatenate([rows[:, :2].cumsum(0), rows[:, 2:]], 1)
