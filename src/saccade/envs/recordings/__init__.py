"""Recorded episodes: our recorder, and readers of common formats, which all return the same arrays by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from saccade.envs.recordings.episodes import RecordedEpisode, add_episodes, to_transitions
from saccade.envs.recordings.recorder import INDEX, Act, Recorder, Recording, record_episodes

__all__ = [
    "Act",
    "Episodes",
    "RecordedEpisode",
    "Recorder",
    "Recording",
    "add_episodes",
    "open_recording",
    "record_episodes",
    "to_transitions",
]


class Episodes(Protocol):
    """Episodes on disk, each loaded when the iteration reaches it; a damaged one is a ValueError of one line."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[RecordedEpisode]: ...


def open_recording(path: str | Path, size: tuple[int, int] | None = None, successes: bool = False) -> Episodes:
    """The recording at ``path``: a folder of ours, of LeRobot or of Minari, or ``minari:ID`` for a local data set.

    ``size`` (height, width) and ``successes`` apply to LeRobot alone, see `lerobot.LeRobot`. ValueError for a path
    without a recording.
    """
    from saccade.envs.recordings.lerobot import LeRobot
    from saccade.envs.recordings.minari import Minari

    folder = Path(str(path)).expanduser()
    if (folder / "meta" / "info.json").is_file():
        return LeRobot(folder, size, successes)
    if size is not None or successes:
        raise ValueError(f"{path}: size and successes belong to recordings of LeRobot, which have meta/info.json")
    if (folder / INDEX).is_file():
        return Recording(folder)
    if str(path).startswith("minari:") or (folder / "data").is_dir():
        return Minari(str(path).removeprefix("minari:"))
    raise ValueError(
        f"{path} is no recording: it has neither {INDEX} (ours) nor meta/info.json (LeRobot) nor data/ (Minari)"
    )
