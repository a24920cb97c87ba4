"""Sample sets to episodes: clips before and after with their returns, strips where nothing may move, paths from
above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.report.images import Image, Moving, load, moving
from saccade.report.record import Record
from saccade.report.samples import ends, moved, names, origin, pairs

CARDS = 8
"""Most episodes of a set that are shown: clips are large."""
_POINTS = 200


@dataclass(frozen=True)
class Film:
    """One episode: whose it is (run number), when, its clip and a still, what became of it, its return and how that
    moved.
    """

    run: int
    caption: str
    clip: Moving
    still: Image
    note: str
    score: float | None
    moved: int


@dataclass(frozen=True)
class Trail:
    """A path in percent of a square plot: run number, when, "x,y x,y …", first and last place."""

    run: int
    caption: str
    line: str
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True)
class Card:
    """The films of one episode and the paths that they took, seen from above."""

    prompt: str
    films: list[Film]
    trails: list[Trail]


@dataclass(frozen=True)
class FilmSet:
    """One sample set: where it comes from in words, the cards shown, and how many there are in all."""

    name: str
    origin: str
    cards: list[Card]
    count: int


def film_sets(records: Sequence[Record], section: str) -> list[FilmSet]:
    """The sample sets of a section whose items are clips, over all runs; at most 8 cards a set."""
    found = [_set(records, section, name) for name in names(records, section)]
    return [one for one in found if one.cards]


def _set(records: Sequence[Record], section: str, name: str) -> FilmSet:
    shown: dict[tuple[str, int], list[tuple[int, str, dict, int]]] = {}
    steps = set()
    for run, first, last in ends(records, section, name):
        steps.add((first["step"], last["step"]))
        for key, pair in pairs(first, last):
            if "clip" in pair[-1][1] and (key in shown or len(shown) < CARDS):
                shown.setdefault(key, []).extend(_moved(run, pair))
    folder = lambda run: records[run].section(section).folder
    cards = [_card(key[0], [(run, folder(run), *rest) for run, *rest in items]) for key, items in shown.items()]
    count = max(
        (sum("clip" in item for item in last["items"]) for _, _, last in ends(records, section, name)), default=0
    )
    return FilmSet(name, origin(steps, "Acted", "episodes"), [card for card in cards if card.films], count)


def _moved(run: int, pair: Sequence[tuple[str, dict]]) -> list[tuple[int, str, dict, int]]:
    before = pair[0][1].get("score")
    change = lambda k, item: moved(before, item.get("score")) if k else 0
    return [(run, caption, item, change(k, item)) for k, (caption, item) in enumerate(pair) if "clip" in item]


def _card(prompt: str, items: Sequence[tuple[int, Path, str, dict, int]]) -> Card:
    """One card; an episode from before training that another run shows already is left out, with its path."""
    films: list[Film] = []
    paths: list[tuple[int, str, list[list[float]]]] = []
    for run, folder, caption, item, change in items:
        clip, still = moving(folder / item["clip"]), load(folder / item["image"])
        if clip is None or still is None or (caption == "before" and any(film.clip == clip for film in films)):
            continue
        films.append(Film(run, caption, clip, still, item.get("note", ""), item.get("score"), change))
        if len(item.get("path", ())) > 1:
            paths.append((run, caption, item["path"]))
    return Card(prompt, films, _trails(paths))


def _trails(paths: Sequence[tuple[int, str, list[list[float]]]]) -> list[Trail]:
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
        found.append(Trail(run, caption, " ".join(f"{x:g},{y:g}" for x, y in kept), kept[0], kept[-1]))
    return found
