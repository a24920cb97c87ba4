"""Minari data sets as recordings, by their id in the local root or by their folder; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saccade.envs.recordings.episodes import RecordedEpisode, validated


class Minari:
    """Episodes of a Minari data set, given by its id under MINARI_DATASETS_PATH or by its folder.

    A single observation is named "state", observations in dictionaries by their keys, joined by "_"; numeric infos of
    every step are "info.<name>". An episode without an end is truncated at its last step. ValueError for a data set
    that is not found or cannot be read.
    """

    def __init__(self, path: str):
        self.path = path
        folder = Path(path).expanduser()
        try:
            import minari
        except ImportError as error:
            raise ValueError(f"{path} needs a package: pip install 'saccade[recordings]' ({error})") from None
        try:
            self._data = (
                minari.MinariDataset(folder / "data") if (folder / "data").is_dir() else minari.load_dataset(path)
            )
        except FileNotFoundError:
            raise ValueError(
                f"{path} is not a local Minari data set: run minari download {path}, or set MINARI_DATASETS_PATH"
            ) from None
        except Exception as error:  # a damaged folder can raise any kind of error
            raise ValueError(f"{path} is not a readable Minari data set: {_first_line(error)}") from None

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        for i in range(len(self._data)):
            where = f"{self.path}, episode {int(self._data.episode_indices[i])}"
            try:
                episode = self._data[i]
            except Exception as error:  # as above
                raise ValueError(f"{where}: cannot be read: {_first_line(error)}") from None
            yield validated(_arrays(episode, where), where)


def _arrays(episode: Any, where: str) -> dict[str, np.ndarray]:
    length = len(episode.rewards)
    terminated = np.array(episode.terminations, bool)
    truncated = np.array(episode.truncations, bool) & ~terminated
    truncated[-1:] |= ~terminated[-1:]
    infos = {
        f"info.{name}": value[-length:]
        for name, value in _flatten(episode.infos, "", where).items()
        if _numeric(value, length)
    }
    observations = {f"observation.{name}": value for name, value in _flatten(episode.observations, "", where).items()}
    action = _flatten(episode.actions, "", where)
    if list(action) != ["state"]:
        raise ValueError(f"{where}: actions of several parts ({', '.join(action)}) are not supported")
    ends = {"terminated": terminated, "truncated": truncated}
    return observations | infos | ends | {"action": action["state"], "reward": episode.rewards}


def _flatten(value: Any, name: str, where: str) -> dict[str, np.ndarray]:
    if isinstance(value, Mapping):
        parts = [_flatten(inner, f"{name}_{key}" if name else str(key), where) for key, inner in value.items()]
        return {key: array for part in parts for key, array in part.items()}
    if isinstance(value, tuple):
        raise ValueError(f"{where}: {name or 'the observation'} is a tuple, whose parts have no names")
    return {name or "state": np.asarray(value)}


def _numeric(value: np.ndarray, length: int) -> bool:
    """Whether an info is numeric and has one row per step, with or without that of the reset."""
    return value.dtype.kind in "fiub" and value.ndim > 0 and len(value) in (length, length + 1)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
