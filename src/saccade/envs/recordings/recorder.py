"""Our recordings: a folder with a compressed .npz file for each episode, and a line about each in index.jsonl.

A file is written under a temporary name and renamed before its line is added, so an episode is recorded completely or
not at all, and a recording that was interrupted can be continued.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Environment, Observation, Step
from saccade.envs.recordings.episodes import RecordedEpisode, validated

INDEX = "index.jsonl"
_OLD_PREFIX = re.compile(r"^seen\.")
"""Prefix of observations in recordings of version 0.1, which are still read."""

EPISODE_BYTES = 4 << 30
"""Largest size of an episode in memory; a small file may unfold to any size."""

Act = Callable[[Observation, np.ndarray, np.ndarray], np.ndarray]
"""Observations of B rows, the seeds of their episodes and their steps, both ``[B]`` int64 -> actions ``[B, ...]``."""


class Recorder:
    """Adds episodes to a folder that is new, empty, or a recording; ValueError for another folder."""

    def __init__(self, folder: Path):
        exists = (folder / INDEX).is_file()
        if not exists and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is no recording: name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._lines = folder, load_index(folder / INDEX) if exists else []
        temporary = folder / f".{INDEX}.new"
        temporary.write_text(
            "".join(json.dumps(line) + "\n" for line in self._lines)
        )  # without an incomplete last line
        temporary.replace(folder / INDEX)

    @property
    def seeds(self) -> set[int]:
        """Seeds of the recorded episodes."""
        return {line["seed"] for line in self._lines if "seed" in line}

    def add(self, episode: Mapping[str, Any], environment: str = "") -> Path:
        """Write one episode and its line (file, environment, seed, length, return, end). Returns the file's path."""
        path = self.folder / f"{len(self._lines):06d}.npz"
        arrays: dict[str, Any] = validated(episode, path.name)
        temporary = path.with_name(f".{path.name}.new")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        line = _line(path.name, arrays) | ({"environment": environment} if environment else {})
        with (self.folder / INDEX).open("ab", buffering=0) as index:
            index.write((json.dumps(line) + "\n").encode())
        self._lines.append(line)
        return path


class Recording:
    """The episodes of a folder that `Recorder` wrote; ``lines`` are the entries of index.jsonl."""

    def __init__(self, folder: Path):
        self.folder, self.lines = Path(folder), load_index(Path(folder) / INDEX)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        for line in self.lines:
            path = self.folder / line["file"]
            episode = _load_episode(path)
            length = len(episode["reward"])
            if length != line["length"]:
                raise ValueError(f"{path}: {length} steps, but {line['length']} in {INDEX}")
            yield episode


def record_episodes(
    environment: Environment, act: Act, seeds: Sequence[int], folder: Path, longest: int = 10_000
) -> int:
    """Record one episode for each seed, in the environment's rows side by side. Returns how many were written.

    Seeds that are already recorded are skipped. An episode is truncated after ``longest`` steps.
    """
    recorder = Recorder(folder)
    pending = deque(seed for seed in dict.fromkeys(map(int, seeds)) if seed not in recorder.seeds)
    count, rows = len(pending), list(range(environment.count))
    if not count:
        return 0
    seed_B = np.array([pending.popleft() if pending else int(seeds[0]) for _ in rows], np.int64)
    step_B = np.zeros(len(rows), np.int64)
    observation = {name: np.array(value) for name, value in environment.begin(rows, seed_B.tolist()).items()}
    running = {row: _RunningEpisode(observation, row, seed_B[row]) for row in rows[:count]}
    while running:
        action_B = np.asarray(act(observation, seed_B, step_B))
        step = environment.step(action_B)
        step_B += 1
        truncated_B = step_B >= longest
        for row, episode in running.items():
            episode.add(step, action_B, row, bool(truncated_B[row]))
        observation = {name: np.array(value) for name, value in step.observation.items()}
        for row in np.flatnonzero(step.terminated_B | step.truncated_B | truncated_B).tolist():
            if row in running:
                recorder.add(running.pop(row).arrays(), environment.name)
            recorded = bool(pending)  # without a further seed the row runs on and is not recorded
            seed_B[row] = pending.popleft() if recorded else seed_B[row]
            step_B[row] = 0
            for name, value in environment.begin([row], [int(seed_B[row])]).items():
                observation[name][row] = value[0]
            if recorded:
                running[row] = _RunningEpisode(observation, row, seed_B[row])
    return count


class _RunningEpisode:
    """An episode that runs in one row."""

    def __init__(self, observation: Observation, row: int, seed: np.int64):
        self._seed = seed
        self._steps: dict[str, list[Any]] = {
            f"observation.{name}": [value[row].copy()] for name, value in observation.items()
        }

    def add(self, step: Step, action_B: np.ndarray, row: int, truncated: bool) -> None:
        """Add a step; ``truncated`` ends the episode unless it terminated."""
        ends = {
            "terminated": step.terminated_B[row],
            "truncated": step.truncated_B[row] or (truncated and not step.terminated_B[row]),
        }
        facts = {f"info.{name}": value[row] for name, value in step.info.items()}
        observations = {f"observation.{name}": value[row] for name, value in step.observation.items()}
        fields = {"action": action_B[row], "reward": step.reward_B[row]} | ends | facts | observations
        for name, value in fields.items():
            self._steps.setdefault(name, []).append(np.array(value))

    def arrays(self) -> RecordedEpisode:
        """The episode so far."""
        return {name: np.stack(values) for name, values in self._steps.items()} | {"seed": np.array(self._seed)}


def load_index(path: Path) -> list[dict[str, Any]]:
    """The entries of an index, without an incomplete last line. ValueError that names another bad line."""
    *lines, _incomplete = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["file"] != Path(entry["file"]).name or entry["length"] < 1:
                raise ValueError
            entries.append(entry)
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path} line {number} describes no episode: {line[:40].decode(errors='replace')!r}"
            ) from None
    return entries


def _line(file: str, episode: RecordedEpisode) -> dict[str, Any]:
    facts = {"seed": int(episode["seed"])} if "seed" in episode else {}
    info = {name: float(value[-1]) for name, value in episode.items() if name.startswith("info.") and value.ndim == 1}
    end = "terminated" if episode["terminated"][-1] else "truncated"
    return {
        "file": file,
        **facts,
        "length": len(episode["reward"]),
        "return": float(episode["reward"].sum()),
        "end": end,
        **info,
    }


def _load_episode(path: Path) -> RecordedEpisode:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > EPISODE_BYTES:
            raise ValueError(f"it unfolds to {size / 1e9:.1f} GB, more than {EPISODE_BYTES / 1e9:.1f} GB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {_OLD_PREFIX.sub("observation.", name): file[name] for name in file.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: cannot be read as an episode: {reason}") from None
    return validated(arrays, str(path))
