"""From words of the command line to a frozen dataclass, by tyro; what does not fit becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from saccade.naming import nearest

T = TypeVar("T")

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
"""A switch whose help says nothing of its default."""

Flat = Annotated[T, tyro.conf.arg(name="")]
"""A group of settings whose options carry no prefix."""

_STYLE = (tyro.conf.HelptextFromCommentsOff,)


def parse(kind: type[T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """The ``kind`` that the words describe, with the fields of ``default`` where they say nothing.

    ValueError with one line for an unknown option (with the nearest one), a value that does not fit, a missing
    argument. A name that two fields share is one too. ``--help`` prints and ends with SystemExit(0).
    """
    names = flags(kind)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two settings are called {twice[0]}: rename one")
    words = [whole(word, names) for word in words]
    known = {} if default is None else {"default": default}
    # Help shows the one form of a switch that changes something; a repeated command may use the other.
    style = (*_STYLE, tyro.conf.FlagCreatePairsOff) if {"-h", "--help"} & set(words) else _STYLE
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            made, left = tyro.cli(kind, prog=command, args=words, config=style, return_unknown_args=True, **known)
    except SystemExit as end:
        if not end.code:
            sys.stderr.write(box.getvalue())
            raise
        raise ValueError(_one_line(box.getvalue())) from None
    if left:
        raise ValueError(_unknown(left, kind))
    return made


def flags(kind: type) -> list[str]:
    """The long options of a dataclass, those of the dataclasses in it included: ``--steps``, ``--flow.lora-rank``."""
    return ["--" + path for path in _paths(kind)]


def _paths(kind: type) -> list[str]:
    found, hints = [], get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        flat, inner = is_flat(hint), get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(inner):
            found += [path if flat else f"{name}.{path}" for path in _paths(inner)]
        else:
            found.append(name)
    return found


def is_flat(hint: Any) -> bool:
    """Whether a field's options carry no prefix (`settings.Flat`)."""
    return get_origin(hint) is Annotated and any(getattr(extra, "name", None) == "" for extra in get_args(hint)[1:])


def whole(word: str, names: Sequence[str]) -> str:
    """An option by its whole name, where it was given by the last part of it alone: ``--lora-rank`` for
    ``--flow.lora-rank``, or by its group for the ``name`` in it: ``--flow`` for ``--flow.name``.

    ValueError where several settings end like this.
    """
    flag, equal, value = word.partition("=")
    no = "no-" if flag.startswith("--no-") else ""
    bare = flag[2 + len(no) :]
    plain = "--" + bare
    if not flag.startswith("--") or flag in names or plain in names:
        return word if not no or "." not in bare else word
    if f"{plain}.name" in names:
        return f"{plain}.name{equal}{value}"
    ends = [name for name in names if name.endswith(f".{bare}")]
    if len(ends) > 1:
        raise ValueError(f"'{flag}' may mean {', '.join(ends)}: give the whole name")
    if not ends:
        return word
    group, _, last = ends[0].rpartition(".")
    return f"{group}.{no}{last}{equal}{value}"


def _unknown(left: Sequence[str], kind: type) -> str:
    word = next((w for w in left if w.startswith("-")), left[0]).partition("=")[0]
    if not word.startswith("-"):
        return f"unexpected argument '{word}'"
    return f"unknown option '{word}'; nearest: {nearest(word, [*flags(kind), '--help'])}"


def _one_line(box: str) -> str:
    """The message of tyro's box, without its frame, its title and its advice."""
    _title, *rows = [row.strip("│| ") for row in box.strip().splitlines()] or [""]
    kept = itertools.dropwhile(_is_rule, rows)
    rows = list(itertools.takewhile(lambda row: not _is_rule(row), kept))
    message = re.sub(r"\s+", " ", " ".join(rows)).strip()
    missing = re.match(r"Missing from [^:]*: (\S+)", message)
    choice = re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)", message)
    bare = re.match(r"Missing value for argument [^\w-]*([\w-]+)", message)
    number = re.match(
        r"Error parsing ([\w-]+): (invalid literal for int|could not convert string to float)[^:]*: '(.*)'", message
    )
    if missing:
        return f"missing {missing[1]}"
    if number:
        return f"{number[1]} must be a {'whole ' if 'int' in number[2] else ''}number, not '{number[3]}'"
    if bare:
        return f"{bare[1]} needs a value"
    if choice:
        options = re.findall(r"'([^']*)'", choice[3])
        near = nearest(choice[1], options)
        return f"{choice[2]} cannot be '{choice[1]}'; nearest: {near} (of {', '.join(options)})"
    return message.removeprefix("Error parsing ") or "these options cannot be read; see --help"


def _is_rule(row: str) -> bool:
    return not set(row) - set("─-╰╯+")
