"""Sample sets to episodes: clips before and after with their returns, strips of frames, paths from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.report.images import Clip, Image, load_clip, load_picture
from saccade.report.record import Record
from saccade.report.samples import direction, ends, names, origin, pairs

CARDS = 8
"""Most episodes of a set that are shown: clips are large."""
_POINTS = 200


@dataclass(frozen=True)
class Episode:
    """One episode: number of its run, caption, clip and still, a note on its outcome, its return, and whether that fell
    or rose since before (-1, 0, 1).
    """

    run: int
    caption: str
    clip: Clip
    still: Image
    note: str
    score: float | None
    direction: int


@dataclass(frozen=True)
class Trajectory:
    """A path in percent of a square plot: run number, when, "x,y x,y …", first and last place."""

    run: int
    caption: str
    line: str
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True)
class Card:
    """One episode as the runs acted in it, and the paths that they took, seen from above."""

    prompt: str
    episodes: list[Episode]
    trajectories: list[Trajectory]


Shown = tuple[int, Path, str, dict, int]
"""Number and folder of a run, caption, item, direction of its score."""


@dataclass(frozen=True)
class EpisodeSet:
    """One sample set: where it comes from in words, the cards shown, and how many there are in all."""

    name: str
    origin: str
    cards: list[Card]
    count: int


def episode_sets(records: Sequence[Record], section: str) -> list[EpisodeSet]:
    """The sample sets of a section whose items are clips, over all runs; at most 8 cards a set."""
    found = [_set(records, section, name) for name in names(records, section)]
    return [one for one in found if one.cards]


def _set(records: Sequence[Record], section: str, name: str) -> EpisodeSet:
    shown: dict[tuple[str, int], list[Shown]] = {}
    steps, counts = set(), [0]
    for run, folder, first, last in ends(records, section, name):
        steps.add((first["step"], last["step"]))
        counts.append(sum("clip" in item for item in last["items"]))
        for key, pair in pairs(first, last):
            if "clip" in pair[-1][1] and (key in shown or len(shown) < CARDS):
                shown.setdefault(key, []).extend(_with_change(run, folder, pair))
    cards, count = [_card(key[0], items) for key, items in shown.items()], max(counts)
    return EpisodeSet(name, origin(steps, "Run", "episodes"), [card for card in cards if card.episodes], count)


def _with_change(run: int, folder: Path, pair: Sequence[tuple[str, dict]]) -> list[Shown]:
    before = pair[0][1].get("score")
    change = lambda k, item: direction(before, item.get("score")) if k else 0
    return [(run, folder, caption, item, change(k, item)) for k, (caption, item) in enumerate(pair) if "clip" in item]


def _card(prompt: str, items: Sequence[Shown]) -> Card:
    """One card; an episode from before training that another run shows already is left out, with its path."""
    episodes: list[Episode] = []
    paths: list[tuple[int, str, list[list[float]]]] = []
    for run, folder, caption, item, change in items:
        clip, still = load_clip(folder / item["clip"]), load_picture(folder / item["image"])
        if clip is None or still is None or (caption == "before" and any(episode.clip == clip for episode in episodes)):
            continue
        episodes.append(Episode(run, caption, clip, still, item.get("note", ""), item.get("score"), change))
        if len(item.get("path", ())) > 1:
            paths.append((run, caption, item["path"]))
    return Card(prompt, episodes, _trajectories(paths))


def _trajectories(paths: Sequence[tuple[int, str, list[list[float]]]]) -> list[Trajectory]:
    """Paths in one square plot, both axes to one scale and y upwards, "before" at the bottom."""
    places = [point for _, _, path in paths for point in path]
    if not places:
        return []
    low = [min(point[axis] for point in places) for axis in (0, 1)]
    span = [max(point[axis] for point in places) - low[axis] for axis in (0, 1)]
    side = max(span) or 1.0
    corner = [low[axis] - (side - span[axis]) / 2 for axis in (0, 1)]
    at = lambda point: (
        round(6 + 88 * (point[0] - corner[0]) / side, 1),
        round(94 - 88 * (point[1] - corner[1]) / side, 1),
    )
    found = []
    for run, caption, path in sorted(paths, key=lambda one: one[1] != "before"):
        some = min(len(path), _POINTS)
        kept = [at(path[round(i * (len(path) - 1) / (some - 1))]) for i in range(some)]
        found.append(Trajectory(run, caption, " ".join(f"{x:g},{y:g}" for x, y in kept), kept[0], kept[-1]))
    return found
