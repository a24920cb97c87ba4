"""A run folder as the report reads it: the run itself and its stages, each a section with what it logged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saccade.training import files
from saccade.training import folder as on_disk


@dataclass(frozen=True)
class Section:
    """One run folder's contents; ``name`` is empty for the run itself, else the stage's."""

    name: str
    folder: Path
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    result: dict[str, Any]

    def scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """Before and after: the result's, or while there is none, the first and last evaluation."""
        if self.result.get("after") or self.result.get("before"):
            return self.result.get("before") or {}, self.result.get("after") or {}
        lines = [{k.removeprefix("eval/"): v for k, v in m.items() if k.startswith("eval/")} for m in self.metrics]
        lines = [line for line in lines if line]
        return (lines[0], lines[-1]) if lines else ({}, {})

    def empty(self) -> bool:
        return not (self.metrics or self.samples or self.tables or self.result)


@dataclass(frozen=True)
class Record:
    """One run: a name that tells it from the others of the page, its config, its sections (stages in order)."""

    label: str
    folder: Path
    config: dict[str, Any]
    sections: list[Section]

    def section(self, name: str) -> Section | None:
        return next((section for section in self.sections if section.name == name), None)

    def scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """Before and after of the run, or of its last stage that has any."""
        found = [section.scores() for section in (self.sections[0], *reversed(self.sections[1:]))]
        return next((pair for pair in found if pair[0] or pair[1]), ({}, {}))

    @property
    def finished(self) -> bool:
        return bool(self.sections[0].result)


def read_all(folders: Sequence[Path]) -> list[Record]:
    """The runs of one page, each with a label of its own. No run, an empty or a broken one is a ValueError."""
    if not folders:
        raise ValueError("a report needs at least one run folder")
    records = [_read(folder) for folder in folders]
    names = [record.label for record in records]
    if len(set(names)) < len(names):
        names = [f"{record.label} {record.folder.resolve().name}" for record in records]
    repeated = Counter(names)
    names = [f"{name} ({i})" if repeated[name] > 1 else name for i, name in enumerate(names, 1)]
    return [replace(record, label=name) for record, name in zip(records, names)]


def _read(folder: Path) -> Record:
    config = on_disk.config(folder)
    stages = [(on_disk.config(path.parent), path.parent) for path in folder.glob("*/config.json")]
    stages = sorted(
        (pair for pair in stages if "stage" in pair[0]), key=lambda pair: (str(pair[0].get("started")), pair[1].name)
    )
    sections = [_section("", folder), *(_section(path.name, path) for _, path in stages)]
    if all(section.empty() for section in sections):
        raise ValueError(f"the run in {folder} has nothing to show yet: no metrics, samples, tables or result")
    return Record(str(config.get("recipe") or folder.resolve().name), folder, config, sections)


def _section(name: str, folder: Path) -> Section:
    return Section(
        name=name,
        folder=folder,
        metrics=files.records(folder / "metrics.jsonl"),
        samples=[_whole_sample(folder, sample) for sample in files.records(folder / "samples.jsonl")],
        tables=on_disk.tables(folder),
        result=on_disk.result(folder) or {},
    )


def _whole_sample(folder: Path, sample: dict[str, Any]) -> dict[str, Any]:
    items = sample.get("items")
    if not isinstance(sample.get("set"), str) or not isinstance(items, list):
        raise ValueError(f"{folder / 'samples.jsonl'} is broken: step {sample['step']} lacks a set or items")
    for item in items:
        if not isinstance(item, dict) or "prompt" not in item or not {"image", "turns"} & set(item):
            raise ValueError(
                f"{folder / 'samples.jsonl'} is broken: an item of step {sample['step']} lacks prompt or image"
            )
        for picture in _pictures(folder, sample, item):
            if not (folder / picture).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{folder / 'samples.jsonl'} names a picture outside its run: {picture[:60]!r}")
    return sample


def _pictures(folder: Path, sample: dict[str, Any], item: dict[str, Any]) -> list[str]:
    """The files of all pictures of an item and its parts. ValueError for parts of another form."""
    try:
        turns = item.get("turns", [])
        words = [word for turn in turns for word in (turn["who"], turn["text"])]
        shown = [*([item] if "image" in item else []), *(picture for turn in turns for picture in turn["pictures"])]
        paths = [picture["image"] for picture in shown]
        paths += [item[name] for name in ("source", "target", "clip") if name in item]
        boxes = [box for picture in shown for box in picture.get("boxes", [])]
        places = all(map(_is_place, item.get("path", [])))
        if (
            all(isinstance(text, str) for text in (*words, *paths, item.get("note", "")))
            and all(map(_is_box, boxes))
            and places
        ):
            return paths
    except (KeyError, TypeError, AttributeError):
        pass
    what = f"an item of step {sample['step']} has pictures, boxes, turns or a path of another form"
    raise ValueError(f"{folder / 'samples.jsonl'} is broken: {what}")


def _is_place(point: list[float]) -> bool:
    return len(point) == 2 and all(isinstance(x, (int, float)) and math.isfinite(x) for x in point)


def _is_box(box: dict[str, Any]) -> bool:
    numbers = len(box["corners"]) == 4 and all(isinstance(x, (int, float)) for x in box["corners"])
    return numbers and isinstance(box["label"], str) and box["kind"] in on_disk.BOXES
