"""What the commands say: people's tables, one JSON object on the last line for programs, one line for an error."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class HelpShown(SystemExit):
    """The help was printed, which is all that was asked for."""


def first() -> bool:
    """Whether this process is the one of its run that speaks (environment RANK)."""
    return int(os.environ.get("RANK") or 0) == 0


def show_json(value: Any) -> None:
    """Print one line of JSON; NaN and infinity become null."""
    print(json.dumps(_plain(value), ensure_ascii=False), flush=True)


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: Sequence[int] = ()
) -> None:
    """Print a table; the columns numbered in ``right`` are aligned to the right. Not cut where there is no terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_header=any(columns))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    if title:
        console().print(Text(f"\n{title}", style="bold"))
    console(width=400).print(table)


def show_scores(scores: Mapping[str, float], title: str = "") -> None:
    """Print scores, one a line, with their 95 % intervals where standard errors are among them."""
    show_table(("score", "value"), [(name, with_interval(scores, name)) for name in known(scores)], title, right=(1,))


def known(scores: Mapping[str, float]) -> list[str]:
    """The names of scores; those of standard errors are left out."""
    from saccade.naming import STANDARD_ERROR

    return [name for name in scores if not name.endswith(STANDARD_ERROR)]


def with_interval(scores: Mapping[str, float], name: str) -> str:
    """A score with its 95 % interval, where its standard error stands beside it."""
    from saccade.report.intervals import half_width

    width = half_width(scores, name)
    return figure(scores.get(name)) + (f" ± {figure(width)}" if width is not None else "")


VERDICTS = {
    "holds": "the 95 % interval of the margin lies above what is claimed",
    "refuted": "the 95 % interval of the margin lies below what is claimed",
    "undecided": "the 95 % interval contains what is claimed: more seeds or larger effects would tell",
    "void": "nothing was tested: a precondition failed, or the claim is true without any learning",
}
"""What the four verdicts of a check mean."""


def show_claims(claims: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print the claims of a check: verdict, mean margin with its 95 % interval, and the margin of each seed."""
    rows = [
        (
            c["claim"],
            c["origin"],
            c["verdict"],
            interval(c),
            f"{c['least']:g}",
            " ".join(map(figure, c["margins"])),
            why(c),
        )
        for c in claims
    ]
    columns = ("claim", "origin", "verdict", "margin, 95 %", "must exceed", "each seed", "")
    show_table(columns, rows, title, right=(3, 4))


def verdict_counts(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims got each verdict, such as "2 hold, 1 undecided"."""
    found = [claim["verdict"] for claim in claims]
    counts = {
        ("hold" if verdict == "holds" and n > 1 else verdict): n for verdict in VERDICTS if (n := found.count(verdict))
    }
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def interval(claim: Mapping[str, Any]) -> str:
    """The mean margin of a claim and its 95 % interval, such as "0.158 [0.091, 0.225]"."""
    ends = claim.get("interval")
    return figure(claim["mean"]) + (f" [{', '.join(map(figure, ends))}]" if ends else "")


def why(claim: Mapping[str, Any]) -> str:
    """The reason for a verdict that the interval alone does not give, and the seeds that would decide it."""
    if claim["verdict"] != "undecided":
        return str(claim["reason"])
    needed = claim.get("seeds_needed")
    return claim["reason"] or (f"{needed} seeds would decide" if needed else "over 100 seeds would be needed")


def console(width: int = 100) -> Any:
    """The console of standard output; ``width`` letters wide where no terminal (or COLUMNS) says how many it has."""
    from rich.console import Console

    sized = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(highlight=False, width=None if sized else width)


def say_error(message: object) -> None:
    """Print ``saccade: <message>`` as one line to standard error; of an OSError the file and the reason."""
    if isinstance(message, OSError) and message.filename is not None:
        message = f"{message.filename}: {message.strerror}"
    rank = f"process {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE") or 1) > 1 else ""
    with suppress(OSError, ValueError):  # whoever read standard error may have gone
        print(f"saccade: {rank}{' '.join(str(message).split())}", file=sys.stderr, flush=True)


def meant(error: BaseException) -> bool:
    """Whether an error was raised for the user, by this package or by a file of the user's.

    A ValueError from within a library is a defect and keeps its traceback; an OSError is for the user if it names a
    file.
    """
    if isinstance(error, OSError):
        return error.filename is not None
    if not isinstance(error, ValueError):
        return True
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    libraries = (sys.prefix, sys.base_prefix)
    return last.is_relative_to(Path(__file__).parents[1]) or not any(last.is_relative_to(place) for place in libraries)


def figure(value: float | None) -> str:
    """A score in three decimals, "–" where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


_STYLES = {
    "holds": "green",
    "refuted": "red",
    "undecided": "yellow",
    "void": "dim",
    "built": "cyan",
    "not built": "dim",
    "missing": "red",
    "ok": "green",
}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
