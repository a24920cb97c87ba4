"""What a wrong name was meant to be: the one voice of all messages that end in "nearest: …"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

STANDARD_ERROR = ", standard error"
"""What follows a score's name in the name of its standard error."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The most similar of the known names; "none" where there are none."""
    return next(iter(get_close_matches(str(name), list(known), n=1, cutoff=0.0)), "none")


def require(name: str, value: str, known: Sequence[str]) -> None:
    """ValueError that names the nearest known value where ``value`` is none of them."""
    if value not in known:
        raise ValueError(f"unknown {name} '{value}'; nearest: {nearest(value, known)}")
