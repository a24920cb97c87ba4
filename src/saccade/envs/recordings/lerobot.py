"""LeRobot data sets (layouts v2 and v3) as recordings, read with pyarrow and PyAV instead of the lerobot package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from saccade.envs.recordings import columns
from saccade.envs.recordings.episodes import RecordedEpisode, validated
from saccade.models.tables import read_jsonl, read_parquet, read_text

_PREFIX = "observation."
_TEXTS = ("string", "language")
"""Kinds of features that are no numbers; they are left out."""


class LeRobot:
    """Episodes of a LeRobot folder, with its names of observations: "observation.images.top" is "observation.top".

    The format has no observation after the last action. So an episode that terminates ("next.done" without
    "next.truncated", or "next.success") repeats its last observation, whose value is never used; the last step of any
    other episode is left out, and it ends as truncated. Rows after the first "next.done" are not read.

    ``successes`` is for demonstrations without rewards: each counts as a success, with reward 1 at its end and 0
    before. Features that are texts are left out, and a task without a text is "". ``size`` (height, width) resizes
    pictures. ValueError for folders that are damaged or of another kind.
    """

    def __init__(self, folder: Path, size: tuple[int, int] | None = None, successes: bool = False):
        self.folder, self._size, self._successes = Path(folder), size, successes
        path = self.folder / "meta" / "info.json"
        try:
            self.info: dict[str, Any] = json.loads(read_text(path))
            self._version = int(str(self.info["codebase_version"]).lstrip("v").split(".")[0])
            self._features: dict[str, str] = {name: feature["dtype"] for name, feature in self.info["features"].items()}
            self._layout = {"data": str(self.info["data_path"]), "video": str(self.info.get("video_path") or "")}
            self._count, self._fps = int(self.info["total_episodes"]), float(self.info["fps"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not describe a LeRobot data set: {error!r}") from None
        if self._version not in (2, 3):
            raise ValueError(f"{path}: layout {self.info['codebase_version']} is not supported, only v2 and v3")
        if not successes and "next.reward" not in self._features:
            raise ValueError(f"{path} has no next.reward: give --successes if every episode is a success")
        self._table = lru_cache(1)(read_parquet)  # v3 has many episodes in one file
        self._tasks, self._locations = self._meta()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RecordedEpisode]:
        for number in range(self._count):
            where = f"{self.folder}, episode {number}"
            try:
                yield validated(self._episode(number), where)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"{where}: damaged, or not as meta/info.json describes it: {error!r}") from None

    def _episode(self, number: int) -> dict[str, np.ndarray]:
        location = self._locations[number]
        path = self._file("data", **location["data"])
        rows = columns.episode_rows(self._table(path), number, path)
        numeric = [name for name, kind in self._features.items() if kind not in _TEXTS]
        names = [name for name in numeric if name.startswith(_PREFIX) or name in ("action", *_ENDS)]
        arrays = {_short(name): self._column(rows, name, location, path) for name in names}
        if len(arrays) < len(names):
            raise ValueError(f"{path}: two observations would have the same name: {', '.join(names)}")
        episode = _with_end(arrays, self._successes)
        if "task_index" in rows.column_names:
            episode["task"] = np.array(self._tasks.get(int(rows["task_index"][0].as_py()), ""))
        return episode

    def _column(self, rows: Any, name: str, location: dict[str, Any], path: Path) -> np.ndarray:
        if self._features[name] == "video":
            names, start = location["videos"][name]
            video = self._file("video", video_key=name, **names)
            return columns.video_frames(video, start, rows.num_rows, self._fps, self._size)
        if self._features[name] == "image":
            return columns.to_pictures(rows[name], self.folder, path, self._size)
        return columns.to_numbers(rows[name], name, path)

    def _file(self, kind: str, **names: Any) -> Path:
        """A file of the layout. ValueError if it is not there, or outside of the folder."""
        path = self.folder / self._layout[kind].format(**names)
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            raise ValueError(f"{path} is missing from the data set")
        return path

    def _meta(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """The text of each task, and the location of each episode's rows and videos."""
        videos = [name for name, kind in self._features.items() if kind == "video"]
        meta = self.folder / "meta"
        if self._version == 2:
            size = int(self.info.get("chunks_size", 1000))
            files = [{"episode_chunk": e // size, "episode_index": e} for e in range(self._count)]
            listed = read_jsonl(meta / "tasks.jsonl") if (meta / "tasks.jsonl").exists() else []
            tasks = {int(line["task_index"]): str(line["task"]) for line in listed}
            return tasks, [{"data": file, "videos": dict.fromkeys(videos, (file, 0.0))} for file in files]
        rows = [row for path in sorted(meta.glob("episodes/*/*.parquet")) for row in columns.load_episode_rows(path)]
        rows = sorted(rows, key=lambda row: row["episode_index"])
        if len(rows) != self._count:
            raise ValueError(f"{meta / 'episodes'} describes {len(rows)} episodes, info.json {self._count}")
        return columns.load_tasks(meta / "tasks.parquet"), [_location(row, videos) for row in rows]


_ENDS = ("next.reward", "next.done", "next.truncated", "next.success")


def _location(row: dict[str, Any], videos: list[str]) -> dict[str, Any]:
    file = lambda prefix: {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}
    starts = {name: (file(f"videos/{name}"), float(row[f"videos/{name}/from_timestamp"])) for name in videos}
    return {"data": file("data"), "videos": starts}


def _short(name: str) -> str:
    if not name.startswith(_PREFIX):
        return name
    return _PREFIX + name.removeprefix(_PREFIX).removeprefix("images.").replace(".", "_")


def _with_end(arrays: dict[str, np.ndarray], successes: bool) -> dict[str, np.ndarray]:
    """T observations and T actions as an episode; for its end see `LeRobot`."""
    length = len(arrays["action"])
    flag = lambda name: arrays.get(name, np.zeros(length)).reshape(-1).astype(bool)
    done = flag("next.done") | flag("next.success")
    length = int(done.argmax()) + 1 if done.any() and not successes else length
    terminated = successes or bool(done[length - 1] and not flag("next.truncated")[length - 1])
    kept = length if terminated else length - 1
    reward = np.zeros(length) if successes else arrays["next.reward"].reshape(-1)[:length]
    reward = np.append(reward[:-1], 1.0) if successes else reward
    last = np.arange(kept) == kept - 1
    index = [*range(kept), min(kept, length - 1)]
    observations = {name: value[index] for name, value in arrays.items() if name.startswith(_PREFIX)}
    success = {"info.success": flag("next.success")[:kept]} if "next.success" in arrays else {}
    ends = {"terminated": last & terminated, "truncated": last & (not terminated)}
    return observations | success | ends | {"action": arrays["action"][:kept], "reward": reward[:kept]}
