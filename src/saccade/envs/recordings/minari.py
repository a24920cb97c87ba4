"""Minari data sets as recordings: by their id, from the local root, or by their folder. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saccade.envs.recordings.episodes import Recorded, checked


class Minari:
    """Episodes of a Minari data set: its id under MINARI_DATASETS_PATH, or its folder. ValueError if it is not here.

    A single observation is called "state", observations in dictionaries by their names, joined by "_"; numeric infos of
    every step come as "info.<name>". Episodes that were cut while they ran end as truncated.
    """

    def __init__(self, place: str):
        self.place = place
        folder = Path(place).expanduser()
        try:
            import minari
        except ImportError as error:
            raise ValueError(f"{place} needs a package: pip install 'saccade[recordings]' ({error})") from None
        try:
            self._data = (
                minari.MinariDataset(folder / "data") if (folder / "data").is_dir() else minari.load_dataset(place)
            )
        except FileNotFoundError:
            raise ValueError(
                f"{place} is no local Minari data set: minari download {place}, or set MINARI_DATASETS_PATH"
            ) from None
        except Exception as error:  # what is broken in a foreign folder makes every kind of error
            raise ValueError(f"{place} is no readable Minari data set: {_first(error)}") from None

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[Recorded]:
        for i in range(len(self._data)):
            where = f"{self.place}, episode {int(self._data.episode_indices[i])}"
            try:
                episode = self._data[i]
            except Exception as error:  # the same
                raise ValueError(f"{where}: cannot be read: {_first(error)}") from None
            yield checked(_arrays(episode, where), where)


def _arrays(episode: Any, where: str) -> dict[str, np.ndarray]:
    length = len(episode.rewards)
    ended = np.array(episode.terminations, bool)
    cut = np.array(episode.truncations, bool) & ~ended
    cut[-1:] |= ~ended[-1:]
    infos = {
        f"info.{name}": value[-length:]
        for name, value in _flat(episode.infos, "", where).items()
        if _numeric(value, length)
    }
    seen = {f"seen.{name}": value for name, value in _flat(episode.observations, "", where).items()}
    action = _flat(episode.actions, "", where)
    if list(action) != ["state"]:
        raise ValueError(f"{where}: actions in several parts ({', '.join(action)}) cannot be read")
    return seen | infos | {"action": action["state"], "reward": episode.rewards, "terminated": ended, "truncated": cut}


def _flat(value: Any, name: str, where: str) -> dict[str, np.ndarray]:
    if isinstance(value, Mapping):
        parts = [_flat(inner, f"{name}_{key}" if name else str(key), where) for key, inner in value.items()]
        return {key: array for part in parts for key, array in part.items()}
    if isinstance(value, tuple):
        raise ValueError(f"{where}: {name or 'it'} is a tuple, which has no names")
    return {name or "state": np.asarray(value)}


def _numeric(value: np.ndarray, length: int) -> bool:
    """Infos of each decision, with or without those of the start."""
    return value.dtype.kind in "fiub" and value.ndim > 0 and len(value) in (length, length + 1)


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
