"""LeRobot data sets (layouts v2 and v3) as recordings: parquet by pyarrow, videos by PyAV, without the lerobot
package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from saccade.envs.recordings import columns
from saccade.envs.recordings.episodes import Recorded, checked

_PREFIX = "observation."


class LeRobot:
    """Episodes of a LeRobot folder: "observation.state" is "seen.state", "observation.images.top" is "seen.top".

    The format holds no observation after the last action. So an episode that terminates ("next.done" without
    "next.truncated", or "next.success") repeats its last observation, from which nothing is ever bootstrapped; of any
    other episode the last decision is left out, and it ends as truncated. What follows a first "next.done" is not read.

    ``successes`` is for demonstrations without rewards: each is taken as a success, with reward 1 at its end and 0
    before. ``size`` (height, width) scales pictures. ValueError for folders that are broken or of another kind.
    """

    def __init__(self, folder: Path, size: tuple[int, int] | None = None, successes: bool = False):
        self.folder, self._size, self._successes = Path(folder), size, successes
        path = self.folder / "meta" / "info.json"
        try:
            self.info: dict[str, Any] = json.loads(path.read_text())
            self._version = int(str(self.info["codebase_version"]).lstrip("v").split(".")[0])
            self._features: dict[str, str] = {name: feature["dtype"] for name, feature in self.info["features"].items()}
            self._layout = {"data": str(self.info["data_path"]), "video": str(self.info.get("video_path") or "")}
            self._count, self._fps = int(self.info["total_episodes"]), float(self.info["fps"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not describe a LeRobot data set: {error!r}") from None
        if self._version not in (2, 3):
            raise ValueError(f"{path}: layout {self.info['codebase_version']} is not known, only v2 and v3")
        if not successes and "next.reward" not in self._features:
            raise ValueError(f"{path} has no next.reward: if every episode is a success, say so (successes)")
        self._table = lru_cache(1)(columns.table)  # v3 keeps many episodes in one file
        self._tasks, self._places = self._meta()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Recorded]:
        for number in range(self._count):
            where = f"{self.folder}, episode {number}"
            try:
                yield checked(self._episode(number), where)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"{where}: broken, or not as meta/info.json says: {error!r}") from None

    def _episode(self, number: int) -> dict[str, np.ndarray]:
        place = self._places[number]
        path = self._file("data", **place["data"])
        rows = columns.episode(self._table(path), number, path)
        names = [name for name in self._features if name.startswith(_PREFIX) or name in ("action", *_ENDS)]
        found = {_short(name): self._column(rows, name, place, path) for name in names}
        if len({_short(name) for name in names}) < len(names):
            raise ValueError(f"{path}: two observations would have the same name: {', '.join(names)}")
        task = (
            {"task": np.array(self._tasks[int(rows["task_index"][0].as_py())])}
            if "task_index" in rows.column_names
            else {}
        )
        return _ended(found, self._successes) | task

    def _column(self, rows: Any, name: str, place: dict[str, Any], path: Path) -> np.ndarray:
        if self._features[name] == "video":
            at, start = place["videos"][name]
            return columns.video(self._file("video", video_key=name, **at), start, rows.num_rows, self._fps, self._size)
        if self._features[name] == "image":
            return columns.pictures(rows[name], self.folder, path, self._size)
        return columns.numbers(rows[name], name, path)

    def _file(self, kind: str, **names: Any) -> Path:
        """A file of the layout. ValueError if it is not there, or outside of the folder."""
        path = self.folder / self._layout[kind].format(**names)
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            raise ValueError(f"{path} is missing from the data set")
        return path

    def _meta(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """The words of each task, and where each episode's rows and videos lie."""
        videos = [name for name, kind in self._features.items() if kind == "video"]
        meta = self.folder / "meta"
        if self._version == 2:
            size = int(self.info.get("chunks_size", 1000))
            at = [{"episode_chunk": e // size, "episode_index": e} for e in range(self._count)]
            tasks = {line["task_index"]: line["task"] for line in columns.lines(meta / "tasks.jsonl")}
            return tasks, [{"data": place, "videos": dict.fromkeys(videos, (place, 0.0))} for place in at]
        rows = [row for path in sorted(meta.glob("episodes/*/*.parquet")) for row in columns.rows(path)]
        rows = sorted(rows, key=lambda row: row["episode_index"])
        if len(rows) != self._count:
            raise ValueError(f"{meta / 'episodes'} speaks of {len(rows)} episodes, info.json of {self._count}")
        return columns.tasks(meta / "tasks.parquet"), [_place(row, videos) for row in rows]


_ENDS = ("next.reward", "next.done", "next.truncated", "next.success")


def _place(row: dict[str, Any], videos: list[str]) -> dict[str, Any]:
    at = lambda prefix: {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}
    starts = {name: (at(f"videos/{name}"), float(row[f"videos/{name}/from_timestamp"])) for name in videos}
    return {"data": at("data"), "videos": starts}


def _short(name: str) -> str:
    if not name.startswith(_PREFIX):
        return name
    return "seen." + name.removeprefix(_PREFIX).removeprefix("images.").replace(".", "_")


def _ended(found: dict[str, np.ndarray], successes: bool) -> dict[str, np.ndarray]:
    """Rows of T observations and T actions as an episode; see `LeRobot` for its end."""
    length = len(found["action"])
    flag = lambda name: found.get(name, np.zeros(length)).reshape(-1).astype(bool)
    done = flag("next.done") | flag("next.success")
    length = int(done.argmax()) + 1 if done.any() and not successes else length
    terminated = successes or bool(done[length - 1] and not flag("next.truncated")[length - 1])
    kept = length if terminated else length - 1
    reward = np.zeros(length) if successes else found["next.reward"].reshape(-1)[:length]
    reward = np.append(reward[:-1], 1.0) if successes else reward
    last = np.arange(kept) == kept - 1
    seen = {
        name: value[[*range(kept), min(kept, length - 1)]] for name, value in found.items() if name.startswith("seen.")
    }
    success = {"info.success": flag("next.success")[:kept]} if "next.success" in found else {}
    ends = {"terminated": last & terminated, "truncated": last & (not terminated)}
    return seen | success | ends | {"action": found["action"][:kept], "reward": reward[:kept]}
