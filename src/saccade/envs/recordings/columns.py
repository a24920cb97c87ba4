"""What LeRobot's files hold as arrays: columns of parquet, pictures in them, stretches of videos."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np


def table(path: Path) -> Any:
    """A parquet file as a pyarrow table. ValueError if it is none."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path} needs a package: pip install 'saccade[recordings]' ({error})") from None
    try:
        return parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is no readable parquet file: {str(error).splitlines()[0]}") from None


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file about episodes, without its statistics."""
    found = table(path)
    return found.select([name for name in found.column_names if not name.startswith("stats/")]).to_pylist()


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none where it is missing. ValueError if it is broken."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    except ValueError:
        raise ValueError(f"{path} is broken: not one JSON object a line") from None


def tasks(path: Path) -> dict[int, str]:
    """The words of each task; v3 writes them as the index of a table, under whatever name that has."""
    found = table(path)
    words = next((name for name in found.column_names if name != "task_index"), None)
    if words is None or "task_index" not in found.column_names:
        raise ValueError(f"{path} names no tasks")
    return {row["task_index"]: str(row[words]) for row in found.to_pylist()}


def episode(found: Any, number: int, path: Path) -> Any:
    """The rows of one episode, in the order of their frames. ValueError if there are none."""
    import pyarrow.compute as compute

    own = found.filter(compute.equal(found["episode_index"], number))
    if not own.num_rows:
        raise ValueError(f"{path}: holds no rows of episode {number}")
    return own.sort_by("frame_index") if "frame_index" in own.column_names else own


def numbers(column: Any, name: str, path: Path) -> np.ndarray:
    """A column of numbers, or of lists of as many numbers in each row, as ``[T, ...]``."""
    values, shape = column.combine_chunks(), [len(column)]
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        inner = values.flatten()
        shape.append(len(inner) // max(len(values), 1))
        values = inner
    try:
        return values.to_numpy(zero_copy_only=False).reshape(shape)
    except (ValueError, NotImplementedError):
        raise ValueError(f"{path}: the rows of {name} are not equally many numbers") from None


def pictures(column: Any, folder: Path, path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """A column of encoded pictures, or of their paths below ``folder``, as uint8 ``[T, H, W, 3]``."""
    from PIL import Image

    found = []
    for entry in column.to_pylist():
        content = entry["bytes"]
        file = folder / str(entry["path"])
        if content is None and not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: names a picture outside of its data set")
        try:
            with Image.open(io.BytesIO(content) if content is not None else file) as image:
                found.append(_scaled(image.convert("RGB"), size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise ValueError(f"{path}: picture {len(found)} cannot be read") from None
    return _stacked(found, path)


def video(path: Path, start: float, count: int, fps: float, size: tuple[int, int] | None) -> np.ndarray:
    """``count`` frames of a video from the second ``start`` on, as uint8 ``[T, H, W, 3]``. ValueError if it has not
    got them.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path} needs a package: pip install 'saccade[recordings]' ({error})") from None
    found: list[np.ndarray] = []
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            file.seek(round(start / stream.time_base), stream=stream)
            for frame in file.decode(stream):
                late = frame.time - start - len(found) / fps
                if late > 0.5 / fps:
                    raise ValueError(f"{path}: no frame at {start + len(found) / fps:.3f} s")
                if late >= -0.5 / fps:
                    found.append(_scaled(frame.to_image(), size))
                if len(found) == count:
                    return _stacked(found, path)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path} is no readable video: {str(error).splitlines()[0]}") from None
    raise ValueError(f"{path}: {len(found)} frames from {start:.3f} s on, {count} are wanted")


def _scaled(image: Any, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(image, np.uint8)


def _stacked(found: list[np.ndarray], path: Path) -> np.ndarray:
    if len({picture.shape for picture in found}) != 1:
        raise ValueError(f"{path}: pictures of several sizes in one episode")
    return np.stack(found)
