"""Our own recordings: a folder with one compressed .npz file an episode and a line about each in index.jsonl.

A file is written beside its place and renamed, and only then its line is added: an episode is in the folder whole or
not at all, and a recording that was killed is continued where it stood.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Environment, Observation, Step
from saccade.envs.recordings.episodes import Recorded, checked

INDEX = "index.jsonl"

Act = Callable[[Observation, np.ndarray, np.ndarray], np.ndarray]
"""What is seen in B rows, the seeds of their episodes and the numbers of the steps, both ``[B]`` int64 -> actions
``[B, ...]``.
"""


class Recorder:
    """Adds episodes to a folder that is new, empty, or holds a recording (else ValueError)."""

    def __init__(self, folder: Path):
        known = (folder / INDEX).is_file()
        if not known and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is no recording: name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._lines = folder, read_index(folder / INDEX) if known else []
        beside = folder / f".{INDEX}.new"
        beside.write_text("".join(json.dumps(line) + "\n" for line in self._lines))  # without a torn last line
        beside.replace(folder / INDEX)

    @property
    def seeds(self) -> set[int]:
        """The seeds of the episodes that are in the folder."""
        return {line["seed"] for line in self._lines if "seed" in line}

    def add(self, episode: Mapping[str, Any], environment: str = "") -> Path:
        """Write one episode and its line: file, environment, seed, length, return, how it ended; the file's path."""
        path = self.folder / f"{len(self._lines):06d}.npz"
        found = checked(episode, path.name)
        beside = path.with_name(f".{path.name}.new")
        with beside.open("wb") as file:
            np.savez_compressed(file, **found)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        line = _line(path.name, found) | ({"environment": environment} if environment else {})
        with (self.folder / INDEX).open("ab", buffering=0) as index:
            index.write((json.dumps(line) + "\n").encode())
        self._lines.append(line)
        return path


class Recording:
    """The episodes of a folder that `Recorder` wrote; ``lines`` say what index.jsonl says of each."""

    def __init__(self, folder: Path):
        self.folder, self.lines = Path(folder), read_index(Path(folder) / INDEX)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Recorded]:
        for line in self.lines:
            episode = _load(self.folder / line["file"])
            if len(episode["reward"]) != line["length"]:
                raise ValueError(
                    f"{self.folder / line['file']}: {len(episode['reward'])} decisions, but {INDEX} says {line['length']}"
                )
            yield episode


def record(environment: Environment, act: Act, seeds: Sequence[int], folder: Path, longest: int = 10_000) -> int:
    """Record one episode for each seed, in the environment's rows side by side; how many were written.

    Seeds that the folder holds already are skipped. An episode of ``longest`` steps is cut there, as truncated.
    """
    recorder = Recorder(folder)
    waiting = deque(seed for seed in dict.fromkeys(map(int, seeds)) if seed not in recorder.seeds)
    count, rows = len(waiting), list(range(environment.count))
    if not count:
        return 0
    seed_B = np.array([waiting.popleft() if waiting else int(seeds[0]) for _ in rows], np.int64)
    time_B = np.zeros(len(rows), np.int64)
    seen = {name: np.array(value) for name, value in environment.begin(rows, seed_B.tolist()).items()}
    running = {row: _Running(seen, row, seed_B[row]) for row in rows[:count]}
    while running:
        action_B = np.asarray(act(seen, seed_B, time_B))
        step = environment.step(action_B)
        time_B += 1
        late_B = time_B >= longest
        for row, episode in running.items():
            episode.add(step, action_B, row, bool(late_B[row]))
        seen = {name: np.array(value) for name, value in step.observation.items()}
        for row in np.flatnonzero(step.terminated_B | step.truncated_B | late_B).tolist():
            if row in running:
                recorder.add(running.pop(row).arrays(), environment.name)
            wanted = bool(waiting)  # a row without a further seed runs on, and nobody looks
            seed_B[row] = waiting.popleft() if wanted else seed_B[row]
            time_B[row] = 0
            for name, value in environment.begin([row], [int(seed_B[row])]).items():
                seen[name][row] = value[0]
            if wanted:
                running[row] = _Running(seen, row, seed_B[row])
    return count


class _Running:
    """An episode while it runs in one row."""

    def __init__(self, seen: Observation, row: int, seed: np.int64):
        self._seed = seed
        self._steps: dict[str, list[Any]] = {f"seen.{name}": [value[row].copy()] for name, value in seen.items()}

    def add(self, step: Step, action_B: np.ndarray, row: int, late: bool) -> None:
        ended = {
            "terminated": step.terminated_B[row],
            "truncated": step.truncated_B[row] or (late and not step.terminated_B[row]),
        }
        facts = {f"info.{name}": value[row] for name, value in step.info.items()}
        seen = {f"seen.{name}": value[row] for name, value in step.observation.items()}
        for name, value in ({"action": action_B[row], "reward": step.reward_B[row]} | ended | facts | seen).items():
            self._steps.setdefault(name, []).append(np.array(value))

    def arrays(self) -> Recorded:
        return {name: np.stack(values) for name, values in self._steps.items()} | {"seed": np.array(self._seed)}


def read_index(path: Path) -> list[dict[str, Any]]:
    """The lines of an index, without a torn last one. ValueError that names another broken line."""
    *lines, _torn = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["file"] != Path(entry["file"]).name or entry["length"] < 1:
                raise ValueError
            found.append(entry)
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path} line {number} is about no episode: {line[:40].decode(errors='replace')!r}"
            ) from None
    return found


def _line(file: str, episode: Recorded) -> dict[str, Any]:
    facts = {"seed": int(episode["seed"])} if "seed" in episode else {}
    info = {name: float(value[-1]) for name, value in episode.items() if name.startswith("info.") and value.ndim == 1}
    ended = "terminated" if episode["terminated"][-1] else "truncated"
    return {
        "file": file,
        **facts,
        "length": len(episode["reward"]),
        "return": float(episode["reward"].sum()),
        "end": ended,
        **info,
    }


def _load(path: Path) -> Recorded:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: cannot be read as an episode: {reason}") from None
    return checked(arrays, str(path))
