"""Questions with lettered choices from JSONL files: "image", "question" or "text", "answer" or "label", and "choices".

"choices" is a list of texts or an object of them by letter; without it they are the lines of the text that begin with
letters, as in V* Bench. "source" or "category" names the set that a line belongs to, "boxes" may hold what to look at.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

from saccade.worlds.questions.files import Record, Records
from saccade.worlds.questions.lines import entry_of, need, pictures_of

_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s+")
"""The letter before a choice: "(A) ", "A. ", "A) " or "A: "."""


def load(path: str | Path, images: str | Path | None = None) -> Records:
    """Problems of a JSONL file, each about one picture below ``images`` (None: below the file's own folder).

    ``inputs.text`` is the question in one line, then a line "A. …" for each choice; ``answer`` is {"text": letter, "kind":
    "choice", "choices": [text, …]} and the line's "boxes" if it has any. ValueError "FILE:LINE: why" for a line that does
    not fit or names a picture that does not exist, and where the file cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    records = [_record(path, number, line, root) for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise ValueError(f"{path}: no questions in this file")
    return Records(path, tuple(records))


def _record(path: Path, number: int, line: str, root: Path) -> Record:
    try:
        entry = entry_of(line)
        question, choices = _asked(entry)
        letter = _letter(entry, len(choices))
        pictures = pictures_of(entry, root)
        need(len(pictures) == 1, f"a question with choices has one picture, this one has {len(pictures)}")
        source = entry.get("source", entry.get("category", path.stem))
        need(isinstance(source, str), f"source {source!r} must be a text")
        text = question + "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
        answer = {"text": letter, "kind": "choice", "choices": choices} | {k: entry[k] for k in ("boxes",) if k in entry}
        return Record(number, text, pictures, answer, source)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from None


def _asked(entry: dict[str, Any]) -> tuple[str, list[str]]:
    """The question in one line, and its choices without their letters."""
    text = entry.get("question", entry.get("text"))
    need(isinstance(text, str) and text.strip() != "", f"question {text!r} must be a text")
    lines = [line for line in text.replace("<image>", "").splitlines() if line.strip()]
    listed = entry.get("choices")
    if listed is None:
        first = next((i for i, line in enumerate(lines) if _LABEL.match(line)), len(lines))
        lines, listed = lines[:first], [line for line in lines[first:] if _LABEL.match(line)]
    listed = list(listed.values()) if isinstance(listed, dict) else listed
    good = isinstance(listed, list) and 2 <= len(listed) <= len(LETTERS) and all(isinstance(c, str) and c.strip() for c in listed)
    need(good, f"choices {json.dumps(listed)[:60]} must be 2 to {len(LETTERS)} texts")
    need(lines != [], "there is no question before the choices")
    return " ".join(line.strip() for line in lines), [_LABEL.sub("", choice, count=1).strip() for choice in listed]


def _letter(entry: dict[str, Any], many: int) -> str:
    said = entry.get("answer", entry.get("label"))
    letter = said.strip().strip("().").upper() if isinstance(said, str) else ""
    need(len(letter) == 1 and letter in LETTERS[:many], f"answer {said!r} must be a letter from A to {LETTERS[many - 1]}")
    return letter
