"""Sample sets to conversations: what a model saw and said turn by turn, before and after, boxes drawn into its
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.report.images import Image, load
from saccade.report.record import Record
from saccade.report.samples import CARDS, ends, moved, names, origin, pairs


@dataclass(frozen=True)
class Turn:
    """Who spoke, what, with which pictures; ``trained`` if these are the words that are learned from."""

    who: str
    text: str
    images: list[Image]
    trained: bool


@dataclass(frozen=True)
class Talk:
    """One conversation: whose it is (run number), when, its score, and how the score moved since before (-1, 0, 1)."""

    run: int
    caption: str
    turns: list[Turn]
    score: float | None
    moved: int


@dataclass(frozen=True)
class TalkSet:
    """One sample set: where it comes from in words, the conversations about each prompt, and how many prompts there
    are.
    """

    name: str
    origin: str
    cards: list[list[Talk]]
    count: int

    @property
    def outlined(self) -> bool:
        return any(image.boxes for card in self.cards for talk in card for turn in talk.turns for image in turn.images)


def talk_sets(records: Sequence[Record], section: str) -> list[TalkSet]:
    """The sample sets of a section whose items have turns, over all runs; at most 24 prompts a set."""
    found = [_set(records, section, name) for name in names(records, section)]
    return [one for one in found if one.cards]


def _set(records: Sequence[Record], section: str, name: str) -> TalkSet:
    cards: dict[tuple[str, int], list[Talk]] = {}
    steps = set()
    for run, first, last in ends(records, section, name):
        steps.add((first["step"], last["step"]))
        folder = records[run].section(section).folder
        for key, shown in pairs(first, last):
            if "turns" in shown[-1][1] and (key in cards or len(cards) < CARDS):
                _add(
                    cards.setdefault(key, []),
                    run,
                    folder,
                    [(caption, item) for caption, item in shown if "turns" in item],
                )
    count = max((len(last["items"]) for _, _, last in ends(records, section, name)), default=0)
    return TalkSet(name, origin(steps, "Held"), list(cards.values()), count)


def _add(talks: list[Talk], run: int, folder: Path, shown: Sequence[tuple[str, dict]]) -> None:
    """Add a run's conversations about one prompt; one that another run shows already is left out."""
    for caption, item in shown:
        change = moved(shown[0][1].get("score"), item.get("score")) if item is not shown[0][1] else 0
        talk = Talk(run, caption, [_turn(folder, turn) for turn in item["turns"]], item.get("score"), change)
        if caption != "before" or not any(talk.turns == known.turns for known in talks):
            talks.append(talk)


def _turn(folder: Path, turn: dict[str, Any]) -> Turn:
    images = [load(folder / picture["image"], picture.get("boxes", ())) for picture in turn["pictures"]]
    return Turn(turn["who"], turn["text"], [image for image in images if image], bool(turn.get("trained")))
