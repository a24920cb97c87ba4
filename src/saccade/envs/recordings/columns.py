"""Arrays from the files of LeRobot data sets: columns of parquet tables, pictures in them, segments of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from saccade.models.pictures import open_picture
from saccade.models.tables import read_parquet


def load_episode_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file about episodes, without its statistics."""
    table = read_parquet(path)
    return table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()


def load_tasks(path: Path) -> dict[int, str]:
    """The text of each task; v3 stores it as the index of a table, whose name is not fixed."""
    table = read_parquet(path)
    text = next((name for name in table.column_names if name != "task_index"), None)
    if text is None or "task_index" not in table.column_names:
        raise ValueError(f"{path} names no tasks")
    return {row["task_index"]: str(row[text]) for row in table.to_pylist()}


def episode_rows(table: Any, number: int, path: Path) -> Any:
    """The rows of one episode, in the order of their frames. ValueError if there are none."""
    import pyarrow.compute as compute

    rows = table.filter(compute.equal(table["episode_index"], number))
    if not rows.num_rows:
        raise ValueError(f"{path}: no rows of episode {number}")
    return rows.sort_by("frame_index") if "frame_index" in rows.column_names else rows


def to_numbers(column: Any, name: str, path: Path) -> np.ndarray:
    """A column of numbers, or of lists of equal length, as ``[T, ...]``. ValueError for lists of other lengths."""
    values, shape = column.combine_chunks(), [len(column)]
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        inner = values.flatten()
        shape.append(len(inner) // max(len(values), 1))
        values = inner
    try:
        return values.to_numpy(zero_copy_only=False).reshape(shape)
    except (ValueError, NotImplementedError):
        raise ValueError(f"{path}: the rows of {name} have different numbers of values") from None


def to_pictures(column: Any, folder: Path, path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """A column of encoded pictures, or of their paths below ``folder``, as uint8 ``[T, H, W, 3]``.

    ValueError for a picture that cannot be read or lies outside of the folder.
    """
    from PIL import Image

    frames: list[np.ndarray] = []
    for entry in column.to_pylist():
        content = entry["bytes"]
        file = folder / str(entry["path"])
        if content is None and not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: names a picture outside of its data set")
        try:
            frames.append(_resize(Image.fromarray(open_picture(file if content is None else content)), size))
        except ValueError as error:
            raise ValueError(f"{path}: picture {len(frames)} cannot be read: {error}") from None
    return _stack(frames, path)


def video_frames(path: Path, start: float, count: int, fps: float, size: tuple[int, int] | None) -> np.ndarray:
    """``count`` frames of a video from second ``start``, as uint8 ``[T, H, W, 3]``. ValueError if it lacks one."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path} needs a package: pip install 'saccade[recordings]' ({error})") from None
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            file.seek(round(start / stream.time_base), stream=stream)
            for frame in file.decode(stream):
                delay = frame.time - start - len(frames) / fps
                if delay > 0.5 / fps:
                    raise ValueError(f"{path}: no frame at {start + len(frames) / fps:.3f} s")
                if delay >= -0.5 / fps:
                    frames.append(_resize(frame.to_image(), size))
                if len(frames) == count:
                    return _stack(frames, path)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path} is not a readable video: {str(error).splitlines()[0]}") from None
    raise ValueError(f"{path}: {len(frames)} frames from {start:.3f} s on, not {count}")


def _resize(image: Any, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(image, np.uint8)


def _stack(frames: list[np.ndarray], path: Path) -> np.ndarray:
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"{path}: pictures of several sizes in one episode")
    return np.stack(frames)
