"""Settings of a recipe by name: the rule of short names, values from Python, and back from the config.json of a run.

A setting has a dotted name, its options ``--flow.lora-rank`` on the command line and "flow.lora_rank" in Python. The
last part of a name that no other setting shares will do ("lora_rank"), the name of a group stands for the ``name`` in
it ("flow" for "flow.name"), and "model" for the ``name`` of a recipe's only model.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from saccade.naming import suggested_setting, suggestion

T = TypeVar("T")
STAGE = "steps of a stage before the run's own"
"""Marks, in a field's Annotated type, a setting that a shorter run shortens."""


class Range(NamedTuple):
    """The smallest and the largest value of a setting, in its field's Annotated type.

    Without one a number whose default is 0 or more may not be negative.
    """

    least: float = -math.inf
    most: float = math.inf


Count = Annotated[int, Range(1)]
"""A whole number of 1 or more."""
NonNegative = Annotated[float, Range(0)]
"""A number of 0 or more, for fields that may also be None."""
Fraction = Annotated[float, Range(0, 1)]
"""A number from 0 to 1."""
Signed = Annotated[float, Range()]
"""A number that may be negative."""


def names(kind: type) -> list[str]:
    """Dotted names of all fields of a settings dataclass, those of the groups in it included: "flow.lora_rank"."""
    return [name for name, _ in _fields(kind)]


def flags(kind: type) -> list[str]:
    """The same names as options of the command line: ``--flow.lora-rank``."""
    return ["--" + name.replace("_", "-") for name in names(kind)]


def stages(kind: type) -> list[str]:
    """Dotted names of the settings that are marked as `STAGE`."""
    return [name for name, hint in _whole_fields(kind) if STAGE in _marks(hint)]


def out_of_range(settings: Any, default: Any) -> str:
    """The first setting that is out of its `Range`, in one line, or ""; it may keep its ``default``."""
    usual, hints = flat(default), dict(_whole_fields(type(settings)))
    for name, value in flat(settings).items():
        if type(value) not in (int, float) or value == usual[name]:
            continue
        least, most = next((mark for mark in _marks(hints[name]) if isinstance(mark, Range)), _usual_range(usual[name]))
        if not least <= value <= most:
            bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
            return f"--{name.replace('_', '-')} must be {bounds}, not {value:g}"
    return ""


def _usual_range(default: Any) -> Range:
    """The range of a number whose field names none."""
    return Range(0) if isinstance(default, int | float) and default >= 0 else Range()


def _marks(hint: Any) -> tuple[Any, ...]:
    """What Annotated adds to a type hint, or to the parts of a union."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(mark for part in get_args(hint) for mark in _marks(part))
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def is_flat(hint: Any) -> bool:
    """Whether the fields of a group carry no prefix (`training.settings.Flat`)."""
    return any(getattr(extra, "name", None) == "" for extra in _marks(hint))


def bare(hint: Any) -> Any:
    """A type hint without what Annotated adds to it, or to a part of a union."""
    if get_origin(hint) in (Union, types.UnionType) and _marks(hint):
        return reduce(or_, map(bare, get_args(hint)))
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def matching_names(given: str, known: Sequence[str]) -> list[str]:
    """Every one of the ``known`` names that ``given`` could stand for; ``-`` and ``_`` are alike."""
    whole = {name.replace("_", "-"): name for name in known}
    asked = given.replace("_", "-")
    for exact in (asked, f"{asked}.name"):
        if exact in whole:
            return [whole[exact]]
    found = [name for name in whole if name.endswith((f".{asked}", f".{asked}.name"))]
    if not found and asked == "model":
        found = [name for name in whole if name.endswith(".name")]
    return [whole[name] for name in found]


def flat(settings: Any) -> dict[str, Any]:
    """Dotted names and values of a settings dataclass, those of the groups in it included."""
    return dict(zip(names(type(settings)), _leaves(settings)))


def option(name: str, value: Any) -> str:
    """A setting as it is written on the command line: ``--steps 40``, ``--no-flow.sharded``, ``--task.tags a b``."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        group, dot, last = flag.rpartition(".")
        return f"--{flag}" if value else f"--{group}{dot}no-{last}"
    return f"--{flag} {words(value)}".rstrip()


def words(value: Any) -> str:
    """A value as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def contradiction(given: Any, kept: Any) -> tuple[str, Any, Any] | None:
    """Name, given and kept value of the first setting whose values differ; None if all agree."""
    former = flat(kept)
    return next(((name, value, former[name]) for name, value in flat(given).items() if value != former[name]), None)


def restore_settings(template: T, saved: Mapping[str, Any], place: str) -> T:
    """A copy of ``template`` with the ``saved`` values. ValueError if ``place`` has other settings than the recipe."""
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"{place} has no {type(template).__name__} where the recipe has its settings, but {saved!r:.60}"
        )
    hints = {field.name: bare(hint) for field, hint in _hinted(type(template))}
    known = list(hints)
    for name in saved:
        if name not in known:
            raise ValueError(f"{place} has the setting '{name}', which the recipe does not{suggestion(name, known)}")
    values = {}
    for name in known:
        if name not in saved:
            raise ValueError(f"{place} lacks the setting '{name}', which the recipe has")
        present = getattr(template, name)
        inner = dataclasses.is_dataclass(present)
        if inner:
            values[name] = restore_settings(present, saved[name], place)
        elif saved[name] is None and hints[name] is float:
            values[name] = math.inf  # JSON has no infinity, so config.json holds null for it
        else:
            values[name] = fitted(f"{place}: {name}", _tuples(saved[name]), hints[name])
    return dataclasses.replace(template, **values)  # pyrefly: ignore[bad-specialization]


def changed(settings: T, values: Mapping[str, Any]) -> T:
    """Settings with some ``values`` in place of their own, named as a whole, by their last part or by their group.

    A group may be given as a dataclass of its kind or as a mapping of its fields. ValueError for a name that is unknown
    (with the nearest) or could be several, and for a value of another type.
    """
    for given, value in values.items():
        settings = _put(settings, given, value)
    return settings


class Foreign(str):
    """A setting from a run's folder that names code, as FILE.py:FUNCTION or MODULE:ENVIRONMENT.

    Whoever wrote the folder chose it, so it is executed only where the user asked for that: ``file`` is then the file
    to execute.
    """

    file: Path | None = None

    def asked(self) -> Path | None:
        """The file to execute. ValueError, with the advice, where nobody asked for it."""
        if self.file is None:
            raise ValueError(
                f"'{self}' is code that the run's folder names, which is executed only if you ask for it: --trust does"
                " for files outside the folder; where they are settings of a run that goes on, name them again"
            )
        return self.file


def foreign(settings: T, trusted: Callable[[str], Path | None] = lambda name: None) -> T:
    """Settings from a folder, in which `Foreign` stands for every text that could name code.

    ``trusted`` gives the file that the user wants executed for a name, None for any other name.
    """

    def mark(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(mark(each) for each in value)
        if not isinstance(value, str) or ":" not in value:
            return value
        marked = Foreign(value)
        marked.file = trusted(value)
        return marked

    values = {name: value for name, value in flat(settings).items() if isinstance(value, (str, tuple))}
    return changed(settings, {name: mark(value) for name, value in values.items() if ":" in str(value)})


def code_files(settings: Any) -> list[str]:
    """The files of code that the settings name, each as FILE.py:FUNCTION."""
    values = [value if isinstance(value, tuple) else (value,) for value in flat(settings).values()]
    found = (each.rpartition(":")[0] for value in values for each in value if isinstance(each, str))
    return sorted({file for file in found if file.endswith(".py")})


def groups(settings: Any) -> Iterator[Any]:
    """The settings and every group of settings within them."""
    yield settings
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(value := getattr(settings, field.name)):
            yield from groups(value)


def documentation(kind: type) -> dict[str, str]:
    """The help text of each field that stands in the class itself, on one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        found |= _documented(each)
    return found


def described(kind: type) -> list[tuple[str, Any, str]]:
    """Dotted name, type and help text of every setting."""
    return [(name, hint, text) for (name, hint), text in zip(_fields(kind), _texts(kind))]


def _fields(kind: type) -> Iterator[tuple[str, Any]]:
    return ((name, bare(hint)) for name, hint in _whole_fields(kind))


def _whole_fields(kind: type) -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting, with what Annotated adds to it."""
    for field, hint in _hinted(kind):
        inner = bare(hint)
        if dataclasses.is_dataclass(inner):
            prefix = "" if is_flat(hint) else f"{field.name}."
            inside = _whole_fields(inner)  # pyrefly: ignore[bad-argument-type]
            yield from ((prefix + name, each) for name, each in inside)
        else:
            yield field.name, hint


def _hinted(kind: type) -> Iterator[tuple[dataclasses.Field, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    yield from ((field, hints[field.name]) for field in dataclasses.fields(kind) if field.init)


def _texts(kind: type) -> Iterator[str]:
    texts = documentation(kind)
    for field, hint in _hinted(kind):
        inner = bare(hint)
        if dataclasses.is_dataclass(inner):
            yield from _texts(inner)  # pyrefly: ignore[bad-argument-type]
        else:
            yield texts.get(field.name, "")


def _leaves(settings: Any) -> Iterator[Any]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not field.init:
            continue
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield value


@cache
def _documented(kind: type) -> dict[str, str]:
    """Texts under the fields of a class, read from its source; {} where there is none."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found = {}
    for field, text in zip(tree.body, tree.body[1:]) if isinstance(tree, ast.ClassDef) else ():
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _put(settings: Any, given: str, value: Any) -> Any:
    group = _group(settings, given)
    if group and (dataclasses.is_dataclass(value) or isinstance(value, Mapping)):
        return _at(settings, group, lambda present: _as_group(given, present, value))
    found = matching_names(given, names(type(settings)))
    if len(found) > 1:
        raise ValueError(f"'{given}' may mean {', '.join(found)}: give the whole name")
    if not found:
        raise ValueError(f"unknown setting '{given}'{suggested_setting(given, names(type(settings)))}")
    (name,) = found
    hint = dict(_fields(type(settings)))[name]
    return _at(settings, _path(settings, name), lambda _: fitted(name, value, hint))


def _path(settings: Any, name: str) -> list[str]:
    """The fields that lead to a setting, those of groups without a prefix included."""
    for field, hint in _hinted(type(settings)):
        value, inner = getattr(settings, field.name), bare(hint)
        if not dataclasses.is_dataclass(inner):
            if field.name == name:
                return [field.name]
            continue
        rest = name if is_flat(hint) else name.removeprefix(f"{field.name}.")
        if (is_flat(hint) or rest != name) and rest in names(inner):  # pyrefly: ignore[bad-argument-type]
            return [field.name, *_path(value, rest)]
    raise ValueError(f"unknown setting '{name}'")


def _group(settings: Any, given: str) -> list[str] | None:
    """The fields that lead to a group of settings."""
    first, _, rest = given.replace("-", "_").partition(".")
    present = getattr(settings, first, None)
    if not dataclasses.is_dataclass(present):
        return None
    if not rest:
        return [first]
    inner = _group(present, rest)
    return None if inner is None else [first, *inner]


def _at(settings: Any, path: Sequence[str], made: Callable[[Any], Any]) -> Any:
    first, *rest = path
    present = getattr(settings, first)
    return dataclasses.replace(settings, **{first: _at(present, rest, made) if rest else made(present)})


def _as_group(given: str, present: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return changed(present, value)
    if not isinstance(value, type(present)):
        raise ValueError(f"{given} must be a {type(present).__name__}, not a {type(value).__name__}")
    return value


def fitted(name: str, value: Any, hint: Any) -> Any:
    """A value as a setting of the type ``hint`` holds it: lists become tuples, integers where wanted numbers.

    ValueError, in one line, for a value of another type.
    """
    try:
        return _fitted(value, bare(hint))
    except TypeError:
        raise ValueError(f"{name} must be {_told(bare(hint))}, not {value!r}") from None


def _fitted(value: Any, hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        for each in inner:
            try:
                return _fitted(value, each)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        return _checked(value, value in inner)
    if origin is tuple or hint is tuple:
        return _fitted_tuple(value, inner)
    if hint in (None, type(None)):
        return _checked(value, value is None)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int:
        return _checked(value, isinstance(value, int) and not isinstance(value, bool))
    return _checked(value, isinstance(value, hint) if isinstance(hint, type) else callable(value))


def _fitted_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    values = (value,) if isinstance(value, str) else tuple(_checked(value, isinstance(value, (list, tuple))))
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_fitted(each, inner[0]) for each in values)
    _checked(values, not inner or len(inner) == len(values))
    return tuple(_fitted(each, kind) for each, kind in zip(values, inner)) if inner else values


def _checked(value: Any, fits: bool) -> Any:
    if not fits:
        raise TypeError
    return value


def _told(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_told(each) for each in inner)
    if origin is tuple:
        return f"a list ({', '.join('…' if each is Ellipsis else _told(each) for each in inner)})"
    known = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}
    return known.get(hint, getattr(hint, "__name__", str(hint)))
