"""Sample sets to cards: pictures before and after with scores, programs beside their renders, rewritten prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from saccade.report.images import Image, load_picture
from saccade.report.record import Record
from saccade.report.samples import CARDS, between, direction, ends, keyed, names, origin, pairs
from saccade.report.tables import text

GIVEN = ("source", "target")
"""Pictures that a sample has beside what was made: what was to be edited, and what should come of it."""


class Moment(NamedTuple):
    """A sample at an evaluation: step, picture as a data URI, score in words."""

    step: int
    uri: str
    score: str


@dataclass(frozen=True)
class View:
    """One picture: number of its run, caption, score, and whether the score fell or rose since before (-1, 0, 1)."""

    run: int
    caption: str
    image: Image
    score: float | None = None
    direction: int = 0
    moments: tuple[Moment, ...] = ()
    """The same sample at every evaluation that the page holds, this one last; none where there are only two."""


@dataclass(frozen=True)
class Program:
    """What a model wrote to be drawn: run number, when, the text."""

    run: int
    caption: str
    text: str


@dataclass(frozen=True)
class Card:
    """All pictures of one prompt; what an edit began with and the target come first, ``programs`` are the texts of
    renders.
    """

    prompt: str
    views: list[View]
    programs: list[Program]


@dataclass(frozen=True)
class PictureSet:
    """One sample set: where its pictures come from in words, the cards shown, and how many there are in all."""

    name: str
    origin: str
    cards: list[Card]
    count: int

    @property
    def moments(self) -> int:
        """Number of evaluations whose pictures the set holds, 0 for the first and the last alone."""
        return max((len(view.moments) for card in self.cards for view in card.views), default=0)

    @property
    def outlined(self) -> bool:
        return any(view.image.boxes for card in self.cards for view in card.views)


@dataclass(frozen=True)
class Rewrite:
    """What a language model made of a prompt: run number, prompt, first text, last text."""

    run: int
    prompt: str
    before: str
    after: str


def picture_sets(records: Sequence[Record], section: str) -> list[PictureSet]:
    """The sample sets of a section over all runs, without conversations and clips; at most 24 cards a set."""
    found = [_set(records, section, name) for name in names(records, section)]
    return [one for one in found if one.cards]


def rewrites(records: Sequence[Record], section: str) -> list[Rewrite]:
    """First and last text of every prompt that has texts which are neither programs nor of a conversation."""
    found = []
    for name in names(records, section):
        for run, _, first, last in ends(records, section, name):
            texts = {key: item.get("text") for key, item in keyed(first["items"])}
            learned = [(key, item) for key, item in keyed(last["items"]) if not {"target", "turns"} & set(item)]
            found += [
                Rewrite(run, item["prompt"], texts.get(key) or "", item["text"])
                for key, item in learned
                if item.get("text")
            ]
    return found[:CARDS]


def _set(records: Sequence[Record], section: str, name: str) -> PictureSet:
    cards: dict[tuple[str, int], Card] = {}
    steps = set()
    for run, folder, first, last in ends(records, section, name):
        steps.add((first["step"], last["step"]))
        lines = between(records[run], section, name) if len(records) == 1 else []
        course = [(line["step"], dict(keyed(line["items"]))) for line in (first, *lines, last)] if lines else []
        for key, shown in pairs(first, last):
            if not {"turns", "clip"} & set(shown[-1][1]):
                moments = _moments(folder, [(step, items[key]) for step, items in course if key in items])
                _add(cards.setdefault(key, Card(key[0], [], [])), run, folder, shown, moments)
    kept = [card for card in cards.values() if card.views]
    return PictureSet(name, origin(steps), kept[:CARDS], len(kept))


def _moments(folder: Path, items: Sequence[tuple[int, dict]]) -> tuple[Moment, ...]:
    """One sample at several evaluations; none where it has boxes, which a slider cannot move."""
    if any(item.get("boxes") for _, item in items):
        return ()
    found = [(step, load_picture(folder / item["image"]), item) for step, item in items if "image" in item]
    told = lambda score: f"{score:.2f}" if isinstance(score, float) else text(score)
    return tuple(Moment(step, image.uri, told(item.get("score"))) for step, image, item in found if image)


def _add(
    card: Card, run: int, folder: Path, shown: Sequence[tuple[str, dict]], moments: tuple[Moment, ...] = ()
) -> None:
    """Add a run's pictures of one prompt; one that another run shows already, made before training, is left out."""
    last = shown[-1][1]
    given = {name: load_picture(folder / last[name]) for name in GIVEN if name in last}
    if not card.views:
        card.views.extend(View(run, name, picture) for name, picture in given.items() if picture)
    for caption, item in shown:
        image = load_picture(folder / item["image"], item.get("boxes", ()))
        if image is None or (
            item is not last and any(view.caption == "before" and view.image == image for view in card.views)
        ):
            continue
        change = direction(shown[0][1].get("score"), item.get("score")) if item is last and len(shown) > 1 else 0
        card.views.append(View(run, caption, image, item.get("score"), change, moments if item is last else ()))
        if given.get("target") and item.get("text"):
            card.programs.append(Program(run, caption, item["text"]))
