"""A line of a file whose question has lettered choices: "question" or "text", "answer" or "label", and "choices".

"choices" is a list of texts or an object of them by letter; without it they are the lines of the text that begin with
letters, as in V* Bench. "boxes" may hold what to look at.
"""

from __future__ import annotations

import json
import re
from string import ascii_uppercase as LETTERS
from typing import Any

from saccade.worlds.text_files import need

_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s+")
"""The letter before a choice: "(A) ", "A. ", "A) " or "A: "."""


def has_choices(entry: dict[str, Any]) -> bool:
    """Whether a line lists choices, or asks a text with such lines for a letter."""
    text, said = entry.get("question", entry.get("text")), entry.get("answer", entry.get("label"))
    listed = isinstance(text, str) and sum(bool(_LABEL.match(line)) for line in text.splitlines()) > 1
    return "choices" in entry or (listed and isinstance(said, str) and len(said.strip().strip("().")) == 1)


def chosen(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The question in one line, then a line "A. …" for each choice; and {"text": letter, "kind": "choice",
    "choices"}.
    """
    question, choices = _asked(entry)
    letter = _letter(entry, len(choices))
    text = question + "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
    return text, {"text": letter, "kind": "choice", "choices": choices} | {
        k: entry[k] for k in ("boxes",) if k in entry
    }


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
    good = (
        isinstance(listed, list)
        and 2 <= len(listed) <= len(LETTERS)
        and all(isinstance(c, str) and c.strip() for c in listed)
    )
    need(good, f"choices {json.dumps(listed)[:60]} must be 2 to {len(LETTERS)} texts")
    need(lines != [], "there is no question before the choices")
    return " ".join(line.strip() for line in lines), [_LABEL.sub("", choice, count=1).strip() for choice in listed]


def _letter(entry: dict[str, Any], many: int) -> str:
    said = entry.get("answer", entry.get("label"))
    letter = said.strip().strip("().").upper() if isinstance(said, str) else ""
    need(
        len(letter) == 1 and letter in LETTERS[:many], f"answer {said!r} must be a letter from A to {LETTERS[many - 1]}"
    )
    return letter
