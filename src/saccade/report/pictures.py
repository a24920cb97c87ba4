"""Sample sets to picture cards: the same prompt and noise before and after, as data URIs with their scores."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.report.record import Record

CARDS = 24
_LARGEST = 512
_PIXELATED_TO = 128


@dataclass(frozen=True)
class View:
    """One picture: whose it is (run number), when, its score, and how the score moved since before (-1, 0, 1)."""

    run: int
    caption: str
    uri: str
    pixelated: bool
    score: float | None
    moved: int


@dataclass(frozen=True)
class Card:
    prompt: str
    views: list[View]


@dataclass(frozen=True)
class PictureSet:
    """One sample set: where its pictures come from in words, the cards shown, and how many there are in all."""

    name: str
    origin: str
    cards: list[Card]
    count: int


@dataclass(frozen=True)
class Rewrite:
    """What a language model made of a prompt: run number, prompt, first text, last text."""

    run: int
    prompt: str
    before: str
    after: str


def picture_sets(records: Sequence[Record], section: str) -> list[PictureSet]:
    """The sample sets of a section over all runs; at most 24 cards a set."""
    found = [_set(records, section, name) for name in _names(records, section)]
    return [one for one in found if one.cards]


def rewrites(records: Sequence[Record], section: str) -> list[Rewrite]:
    """First and last text of every prompt that has texts, over all sets."""
    found = []
    for name in _names(records, section):
        for run, first, last in _ends(records, section, name):
            texts = {key: item.get("text") for key, item in _keyed(first["items"])}
            learned = [(key, item) for key, item in _keyed(last["items"]) if item.get("text")]
            found += [Rewrite(run, item["prompt"], texts.get(key) or "", item["text"]) for key, item in learned]
    return found[:CARDS]


def _names(records: Sequence[Record], section: str) -> list[str]:
    parts = [part for record in records if (part := record.section(section))]
    return list(dict.fromkeys(sample["set"] for part in parts for sample in part.samples))


def _ends(records: Sequence[Record], section: str, name: str) -> Iterator[tuple[int, dict, dict]]:
    """Run number, first and last line of a sample set, for every run that has it."""
    for run, record in enumerate(records):
        part = record.section(section)
        lines = [sample for sample in part.samples if sample["set"] == name] if part else []
        if lines:
            yield run, lines[0], lines[-1]


def _keyed(items: Sequence[dict]) -> Iterator[tuple[tuple[str, int], dict]]:
    """Items under their prompt and how often it came before, so that runs are matched prompt by prompt."""
    met: Counter[str] = Counter()
    for item in items:
        yield (item["prompt"], met[item["prompt"]]), item
        met[item["prompt"]] += 1


def _set(records: Sequence[Record], section: str, name: str) -> PictureSet:
    views: dict[tuple[str, int], list[View]] = {}
    steps = set()
    for run, first, last in _ends(records, section, name):
        steps.add((first["step"], last["step"]))
        folder = records[run].section(section).folder
        start = dict(_keyed(first["items"]))
        for key, item in _keyed(last["items"]):
            shown = [] if first is last else [(start.get(key), first["step"])]
            _add(views.setdefault(key, []), run, folder, [*shown, (item, last["step"])])
    cards = [Card(key[0], pictures) for key, pictures in views.items() if pictures]
    return PictureSet(name, _origin(steps), cards[:CARDS], len(cards))


def _origin(steps: set[tuple[int, int]]) -> str:
    words = ", ".join(f"step {a} and step {b}" if a != b else f"step {a}" for a, b in sorted(steps))
    return f"The same prompts and noise at {words}" if any(a != b for a, b in steps) else f"Drawn at {words}"


def _add(views: list[View], run: int, folder: Path, ends: Sequence[tuple[dict | None, int]]) -> None:
    """Add a run's pictures of one prompt; one that another run shows already, made before training, is left out."""
    scores = [item.get("score") for item, _ in ends if item]
    for place, (item, step) in enumerate(ends):
        loaded = _load(folder / item["image"]) if item else None
        last = place == len(ends) - 1
        if loaded is None or (not last and any(view.uri == loaded[0] for view in views)):
            continue
        caption = ("after" if last else "before") if len(ends) > 1 else f"step {step}"
        moved = _sign(scores[0], scores[-1]) if last and len(scores) > 1 else 0
        views.append(View(run, caption, *loaded, item.get("score"), moved))


def _sign(before: Any, after: Any) -> int:
    known = isinstance(before, (int, float)) and isinstance(after, (int, float))
    return (after > before) - (after < before) if known else 0


def _load(path: Path) -> tuple[str, bool] | None:
    """A picture as a data URI and whether its pixels are to be seen; None if the file is gone."""
    from PIL import Image

    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            image.load()
            size = max(image.size)
            if size <= _LARGEST and image.format == "PNG":
                return _uri("png", path.read_bytes()), size <= _PIXELATED_TO
            small = image.convert("RGB")
    except (OSError, ValueError):
        raise ValueError(f"{path} is not a picture") from None
    small.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return _uri("jpeg", buffer.getvalue()), False


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
