"""The command in this process, in an empty folder that holds one recipe of one's own, grey.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from saccade import cli


@dataclass(frozen=True)
class Said:
    """Exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line of an error that was the user's."""
        assert self.status == 2, (self.status, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("saccade: ") and "Traceback" not in line
        return line


@pytest.fixture
def saccade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., Said]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parent.parent / "grey.py", tmp_path / "grey.py")

    def run(*words: str) -> Said:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        return Said(status, *capsys.readouterr())

    return run
