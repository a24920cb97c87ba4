"""A line of a file whose question has lettered choices: "question" or "text", "answer" or "label", and "choices".

"choices" is a list of texts or an object of them by letter; without it the choices are the lines of the text that begin
with letters, as in V* Bench. "boxes" may hold the boxes of what the question is about.
"""

from __future__ import annotations

import json
import re
from string import ascii_uppercase as LETTERS
from typing import Any

from saccade.worlds.text_files import ensure

_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s+")
"""The letter before a choice: "(A) ", "A. ", "A) " or "A: "."""


def has_choices(entry: dict[str, Any]) -> bool:
    """Whether an entry lists choices, or has them as lines of its text and a letter as its answer."""
    text, answer = entry.get("question", entry.get("text")), entry.get("answer", entry.get("label"))
    listed = isinstance(text, str) and sum(bool(_LABEL.match(line)) for line in text.splitlines()) > 1
    return "choices" in entry or (listed and isinstance(answer, str) and len(answer.strip().strip("().")) == 1)


def parse_choice_question(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The question in one line, then a line "A. …" for each choice; and {"text": letter, "kind": "choice", "choices"}.

    ValueError for an entry without a question, without two choices or without a letter of one of them.
    """
    question, choices = _question_and_choices(entry)
    letter = _letter(entry, len(choices))
    text = question + "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
    answer = {"text": letter, "kind": "choice", "choices": choices}
    return text, answer | ({"boxes": entry["boxes"]} if "boxes" in entry else {})


def _question_and_choices(entry: dict[str, Any]) -> tuple[str, list[str]]:
    """The question in one line, and its choices without their letters."""
    text = entry.get("question", entry.get("text"))
    ensure(isinstance(text, str) and text.strip() != "", f"question {text!r} must be a text")
    lines = [line for line in text.replace("<image>", "").splitlines() if line.strip()]
    listed = entry.get("choices")
    if listed is None:
        first = next((i for i, line in enumerate(lines) if _LABEL.match(line)), len(lines))
        lines, listed = lines[:first], [line for line in lines[first:] if _LABEL.match(line)]
    listed = list(listed.values()) if isinstance(listed, dict) else listed
    valid = isinstance(listed, list) and 2 <= len(listed) <= len(LETTERS)
    valid = valid and all(isinstance(choice, str) and choice.strip() for choice in listed)
    ensure(valid, f"choices {json.dumps(listed)[:60]} must be 2 to {len(LETTERS)} texts")
    ensure(lines != [], "there is no question before the choices")
    return " ".join(line.strip() for line in lines), [_LABEL.sub("", choice, count=1).strip() for choice in listed]


def _letter(entry: dict[str, Any], count: int) -> str:
    answer = entry.get("answer", entry.get("label"))
    letter = answer.strip().strip("().").upper() if isinstance(answer, str) else ""
    valid = len(letter) == 1 and letter in LETTERS[:count]
    ensure(valid, f"answer {answer!r} must be a letter from A to {LETTERS[count - 1]}")
    return letter
