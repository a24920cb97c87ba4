"""Recorded episodes: our own recorder, and readers of the field's formats, which all give the same arrays by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from saccade.envs.recordings.episodes import Recorded, Takes, into, transitions
from saccade.envs.recordings.recorder import INDEX, Act, Recorder, Recording, record

__all__ = ["Act", "Recorded", "Recorder", "Recording", "Source", "Takes", "into", "record", "source", "transitions"]


class Source(Protocol):
    """Episodes on disk, read one by one whenever they are iterated over; a broken one is a ValueError with one line."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Recorded]: ...


def source(place: str | Path, size: tuple[int, int] | None = None, successes: bool = False) -> Source:
    """The recording at ``place``: a folder of ours, of LeRobot's or of Minari's, or ``minari:ID`` for a local data set.

    ``size`` (height, width) and ``successes`` are for LeRobot alone, see `lerobot.LeRobot`. ValueError for anything
    else.
    """
    from saccade.envs.recordings.lerobot import LeRobot
    from saccade.envs.recordings.minari import Minari

    folder = Path(str(place)).expanduser()
    if (folder / "meta" / "info.json").is_file():
        return LeRobot(folder, size, successes)
    if size is not None or successes:
        raise ValueError(f"{place}: size and successes belong to recordings of LeRobot, which have meta/info.json")
    if (folder / INDEX).is_file():
        return Recording(folder)
    if str(place).startswith("minari:") or (folder / "data").is_dir():
        return Minari(str(place).removeprefix("minari:"))
    raise ValueError(
        f"{place} holds no recording: neither {INDEX} (ours) nor meta/info.json (LeRobot) nor data/ (Minari)"
    )
