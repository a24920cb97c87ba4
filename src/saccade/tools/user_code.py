"""Code of the user's: files as modules, and calls whose every way to fail is an error that names file and line."""

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import TextIO

from saccade.tools.timeout import Overdue

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = tuple(
    {str(_PACKAGE), *site.getsitepackages(), *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib"))}
)
_modules: dict[tuple[Path, int, int], ModuleType] = {}


class UserCodeLeft(Exception):
    """Code of the user's tried to end the program: `sys.exit`, or another exception that is no `Exception`."""


@contextmanager
def user_code() -> Iterator[None]:
    """A block that calls code of the user's.

    It cannot end the program (UserCodeLeft instead; Ctrl-C still does), and standard output is open afterwards.
    ValueError where it closed standard output.
    """
    out = sys.stdout
    try:
        yield
    except (Exception, KeyboardInterrupt, Overdue):
        raise
    except BaseException as error:
        text = f": {error}" if str(error) else ""
        raise UserCodeLeft(f"it tried to end the program by {type(error).__name__}{text}").with_traceback(
            error.__traceback__
        ) from None
    finally:
        if getattr(out, "closed", False):
            sys.stdout = _reopened()
            raise ValueError("it closed standard output")


def described(error: BaseException) -> str:
    """An error in one line: its type and text, and the file and line of the user's code that it comes from."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<", *_LIBRARIES))]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


def load_module(file: Path, noun: str) -> ModuleType:
    """A Python file as a module, executed once as long as it does not change.

    It may import its neighbours, by name or relatively. ValueError "noun 'FILE' cannot be run: why", one line.
    """
    path = file.resolve()
    status = path.stat()
    key = path, status.st_mtime_ns, status.st_size
    if key not in _modules:
        _modules[key] = _executed(path, f"{noun} '{file}'")
    return _modules[key]


def _executed(path: Path, what: str) -> ModuleType:
    package = f"saccade_user_{blake2b(os.fsencode(path.parent), digest_size=6).hexdigest()}"
    if package not in sys.modules:  # so that relative imports find the neighbours
        parent = ModuleType(package)
        parent.__path__ = [str(path.parent)]
        sys.modules[package] = parent
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{what} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        with user_code():
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"{what} cannot be run: {described(error)}") from error
    return module


def _reopened() -> TextIO:
    """Standard output anew, where a file of the process still is one; else nowhere."""
    try:
        os.fstat(1)
        return open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
