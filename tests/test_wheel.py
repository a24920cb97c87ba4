"""The wheel is whole: installed where no source is to be seen, its command trains a miniature that came with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = {".safetensors", ".json", ".jinja", ".j2", ".css", ".js", ".md"}
LIMIT = 60_000_000
"""Bytes; what a package index takes without a question."""


def run(*words: str | Path, cwd: Path) -> str:
    """What a command prints that finds neither a network nor this source tree."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # tests beside this one have the other cores
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built without isolation, so that nothing is fetched."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("saccade-*.whl")
    return built


def test_the_wheel_has_every_file_of_the_package_and_stays_small(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    data = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.suffix in KINDS | {".py"}}
    assert not data - names
    assert {Path(name).suffix for name in names} >= KINDS, "a kind of data is no longer in the package"
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < LIMIT


def test_the_installed_wheel_trains_away_from_the_source(wheel, tmp_path):
    """The new environment sees the packages of this one by a .pth file, where an editable install's is not read."""
    home, place = tmp_path / "env", tmp_path / "elsewhere"
    place.mkdir()
    venv.create(home, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    python, library = Path(paths["scripts"]) / "python", Path(paths["purelib"])
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=place)
    (library / "dependencies.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))

    seen = run(python, "-c", "import json, sys, saccade; print(json.dumps([saccade.__file__, *sys.path]))", cwd=place)
    own, *path = json.loads(seen)
    assert Path(own).is_relative_to(library) and str(ROOT / "src") not in path

    told = run(
        python.with_name("saccade"), "train", "promptrl", "--steps", "2", "--held-out-size", "4", "--json", cwd=place
    )
    result = json.loads(told.splitlines()[-1])
    assert result["steps"] == 2 and result["after"]
    assert (place / result["run"] / "report.html").is_file(), "templates of the page came with the wheel"
