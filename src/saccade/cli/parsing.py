"""From words of the command line to a frozen dataclass, by tyro; what does not fit becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from saccade.cli.output import HelpShown
from saccade.config import bare, documentation, flags, is_flat, matching_names
from saccade.naming import suggested_setting, suggestion

T = TypeVar("T")

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
"""A switch whose help does not give its default."""

RecipeFile = Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
"""The recipe file that opens a run; a folder alone never has one executed."""

Trust = Flag
"""Whether files of code that a folder names are executed."""

Flat = Annotated[T, tyro.conf.arg(name="")]
"""A group of settings whose options carry no prefix."""

_STYLE = (tyro.conf.HelptextFromCommentsOff,)


def parse(kind: type[T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """The ``kind`` that the words describe, with the fields of ``default`` where they leave one out.

    ValueError with one line for an unknown option (with the nearest one), a value that does not fit, a missing
    argument, and a name that two fields share. ``--help`` prints and ends with HelpShown.
    """
    known = flags(kind)
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise ValueError(f"two settings are called {twice[0]}: rename one")
    words = [whole_option(word, known) for word in words]
    if {"-h", "--help"} & set(words):
        return _help(kind, words, command, default)
    given: dict[str, Any] = {} if default is None else {"default": default}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            made, left = tyro.cli(kind, prog=command, args=words, config=_STYLE, return_unknown_args=True, **given)
    except SystemExit:
        raise ValueError(_one_line(box.getvalue())) from None
    if left:
        raise ValueError(_unknown(left, known))
    return made


def whole_option(word: str, known: Sequence[str]) -> str:
    """An option by its whole name, where it was given by a short form (see `config`); other words as they are.

    ``--lora-rank=4`` becomes ``--flow.lora-rank=4``, ``--no-sharded`` becomes ``--flow.no-sharded``. ValueError where
    the short form could be several options.
    """
    flag, equal, value = word.partition("=")
    if not flag.startswith("--") or flag == "--":
        return word
    if name := _meant(flag[2:], known):
        return f"--{name}{equal}{value}"
    if flag.startswith("--no-") and (name := _meant(flag[5:], known)):
        group, dot, last = name.rpartition(".")
        return f"--{group}{dot}no-{last}{equal}{value}"
    return word


def _meant(given: str, known: Sequence[str]) -> str | None:
    found = matching_names(given, [flag[2:] for flag in known])
    if len(found) > 1:
        raise ValueError(f"'--{given}' may mean {', '.join(f'--{name}' for name in found)}: give the whole name")
    return found[0] if found else None


def _help(kind: type[T], words: Sequence[str], command: str, default: T | None) -> T:
    """Print the help and end with HelpShown. Help texts stand on one line and switches have one form in it."""
    given: dict[str, Any] = {} if default is None else {"default": _on_one_line(default)}
    style = (*_STYLE, tyro.conf.FlagCreatePairsOff)
    try:
        return tyro.cli(_with_help(kind), prog=command, args=["--help"], config=style, **given)
    except SystemExit:
        raise HelpShown(0) from None


@cache
def _with_help(kind: type) -> type:
    """The same fields with their help texts on one line each, whatever lines they have in the source."""
    texts, fields = documentation(kind), []
    for field in dataclasses.fields(kind):
        hint = get_type_hints(kind, include_extras=True)[field.name]
        inner = bare(hint)
        if dataclasses.is_dataclass(inner):
            group: Any = _with_help(inner)  # pyrefly: ignore[bad-argument-type]
            hint = Flat[group] if is_flat(hint) else group
        elif field.name in texts:
            hint = Annotated[hint, tyro.conf.arg(help=texts[field.name])]
        fields.append((field.name, hint, _default(field)))
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _default(field: dataclasses.Field) -> Any:
    default = _on_one_line(field.default) if dataclasses.is_dataclass(field.default) else field.default
    return dataclasses.field(default=default, default_factory=field.default_factory)


def _on_one_line(settings: Any) -> Any:
    """Settings as an instance of what `_with_help` makes of their class."""
    inner = lambda value: _on_one_line(value) if dataclasses.is_dataclass(value) else value
    values = {field.name: inner(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return _with_help(type(settings))(**values)


def _unknown(left: Sequence[str], known: Sequence[str]) -> str:
    word = next((w for w in left if w.startswith("-")), left[0]).partition("=")[0]
    if not word.startswith("-"):
        return f"unexpected argument '{word}'"
    return f"unknown option '{word}'{suggested_setting(word, [*known, '--help']) or '; --help lists them'}"


def _one_line(box: str) -> str:
    """The message of tyro's box, without its frame, its title and its advice."""
    _title, *rows = [row.strip("│| ") for row in box.strip().splitlines()] or [""]
    kept = itertools.dropwhile(_is_rule, rows)
    rows = list(itertools.takewhile(lambda row: not _is_rule(row), kept))
    message = re.sub(r"\s+", " ", " ".join(rows)).strip()
    missing = re.match(r"Missing from [^:]*: (\S+)", message)
    choice = re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)", message)
    empty = re.match(r"Missing value for argument [^\w-]*([\w.-]+)", message)
    number = re.match(
        r"Error parsing ([\w.-]+): (invalid literal for int|could not convert string to float)[^:]*: '(.*)'", message
    )
    if missing:
        return f"missing {missing[1]}"
    if number:
        return f"{number[1]} must be a {'whole ' if 'int' in number[2] else ''}number, not '{number[3]}'"
    if empty:
        return f"{empty[1]} needs a value"
    if choice:
        options = re.findall(r"'([^']*)'", choice[3])
        near = suggestion(choice[1], options)
        return f"{choice[2]} cannot be '{choice[1]}'{near} (of {', '.join(options)})"
    message = re.sub(r"^recipe[.:] ?", "", message.removeprefix("Error parsing "))
    return message or "these options cannot be read; see --help"


def _is_rule(row: str) -> bool:
    return not set(row) - set("─-╰╯+")
