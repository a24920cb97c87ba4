"""An empty folder that holds one recipe of the user's, grey.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parent.parent / "grey.py", tmp_path / "grey.py")
    return "./grey.py"
