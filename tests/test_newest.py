"""The newest releases of the libraries whose insides we read, in an environment of their own; it needs an index."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPES = "grpo mgpo ssl4rl flow_grpo promptrl dpo_vs_grpo np_edit"
PARTS = ["models", "policies", *(f"recipes/test_{name}.py" for name in RECIPES.split())]
"""The tests of what calls these libraries."""


@pytest.mark.slow
@pytest.mark.parametrize("library", ["transformers", "diffusers"])
def test_the_newest_release_passes_the_tests_of_what_reads_its_insides(library, tmp_path):
    venv.create(tmp_path, with_pip=True, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(tmp_path), "platbase": str(tmp_path)})
    python, home = Path(paths["scripts"]) / "python", Path(paths["purelib"])
    pip = [python, "-m", "pip"]
    got = subprocess.run([*pip, "install", "--quiet", "--no-deps", library], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"{library} cannot be installed here: {got.stderr.strip().splitlines()[-1]}")
    # Its own release comes first; all else is that of this environment.
    (home / "zz.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{part}" for part in PARTS)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    version = subprocess.run([*pip, "show", library], capture_output=True, text=True).stdout
    assert done.returncode == 0, f"{version.splitlines()[1]}\n{done.stdout[-4000:]}"
