"""Sample sets as a page compares them: the first and the last of a set, item by item, over several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saccade.report.record import Record

CARDS = 24
"""Most items of a set that are shown."""
MOMENTS = 7
"""Most evaluations between the first and the last whose pictures a page holds."""


def names(records: Sequence[Record], section: str) -> list[str]:
    """The sample sets of a section over all runs."""
    parts = [part for record in records if (part := record.section(section))]
    return list(dict.fromkeys(sample["set"] for part in parts for sample in part.samples))


def ends(records: Sequence[Record], section: str, name: str) -> Iterator[tuple[int, Path, dict, dict]]:
    """Number and folder of a run, first and last line of a sample set, for every run that has it."""
    for run, record in enumerate(records):
        part = record.section(section)
        lines = [sample for sample in part.samples if sample["set"] == name] if part else []
        if part and lines:
            yield run, part.folder, lines[0], lines[-1]


def between(record: Record, section: str, name: str) -> list[dict]:
    """The lines of a sample set between the first and the last, at most MOMENTS of them, evenly spaced."""
    part = record.section(section)
    lines = [sample for sample in part.samples if sample["set"] == name][1:-1] if part else []
    count = min(len(lines), MOMENTS)
    return [lines[(2 * i + 1) * len(lines) // (2 * count)] for i in range(count)]


def keyed(items: Sequence[dict]) -> Iterator[tuple[tuple[str, int], dict]]:
    """Items under their prompt and how often it came before, so that runs are matched prompt by prompt."""
    met: Counter[str] = Counter()
    for item in items:
        yield (item["prompt"], met[item["prompt"]]), item
        met[item["prompt"]] += 1


def pairs(first: dict, last: dict) -> Iterator[tuple[tuple[str, int], list[tuple[str, dict]]]]:
    """The items of a set under their keys, each before (where there is one) and after, with a caption."""
    start = {} if first is last else dict(keyed(first["items"]))
    for key, item in keyed(last["items"]):
        before = [("before", start[key])] if key in start else []
        yield key, [*before, (f"step {last['step']}" if first is last else "after", item)]


def origin(steps: set[tuple[int, int]], verb: str = "Sampled", same: str = "prompts and noise") -> str:
    """Which steps a set shows, in words."""
    words = ", ".join(f"step {a} and step {b}" if a != b else f"step {a}" for a, b in sorted(steps))
    return f"The same {same} at {words}" if any(a != b for a, b in steps) else f"{verb} at {words}"


def direction(before: Any, after: Any) -> int:
    """-1, 0 or 1: whether a score fell, stayed or rose; 0 where one is missing."""
    known = isinstance(before, (int, float)) and isinstance(after, (int, float))
    return (after > before) - (after < before) if known else 0
