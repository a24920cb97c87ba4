"""The worked example of docs/add-a-paper.md is followed literally; the README's first recipe is the real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saccade.models.loading import MINIATURES
from saccade.naming import SYNONYMS

ROOT = Path(__file__).parent.parent


def code_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.skipif(
    not (MINIATURES / "sd3-shapes" / "model_index.json").is_file(), reason="sd3-shapes is not built here"
)
def test_the_worked_example_trains_shows_and_samples_from_an_empty_folder(tmp_path):
    (tmp_path / "my_paper.py").write_text(code_blocks("docs/add-a-paper.md")[0])

    def saccade(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "saccade", *words], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    flags = ["--steps", "1", "--prompts-per-step", "2", "--held-out-size", "4"]
    result = json.loads(saccade("train", "./my_paper.py", *flags, "--json").splitlines()[-1])
    assert result["steps"] == 1 and {"held out", "paraphrase"} <= result["after"].keys()
    assert (tmp_path / result["run"] / "report.html").is_file()
    assert "RAFT" in saccade("show", "./my_paper.py")
    saccade("sample", str(tmp_path / result["run"]), "a red circle", "-o", "out.png", "--recipe", "my_paper.py")
    assert (tmp_path / "out.png").is_file()


@pytest.mark.skipif(
    not (MINIATURES / "sd3-shapes" / "model_index.json").is_file(), reason="sd3-shapes is not built here"
)
def test_the_page_of_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for i, block in enumerate(code_blocks("docs/python.md")):
        exec(compile(block, f"docs/python.md, block {i + 1}", "exec"), names)
    assert (tmp_path / "ring.png").is_file() and (tmp_path / "weights" / "model_index.json").is_file()
    assert len(names["seen"]) == 2 and names["scores"]["mean"]["shapes"] >= 0


def test_the_recipe_in_the_readme_names_real_parts():
    recipe = (ROOT / "src/saccade/recipes/baselines/flow_grpo.py").read_text()
    for name in re.findall(r"\b([a-z_]+|[A-Z]\w+)\(", code_blocks("README.md")[0]):
        assert name in recipe, f"the README calls {name}, which the recipe does not"


def test_every_test_that_the_documentation_names_exists():
    tests = ROOT / "tests"
    written = {str(path.relative_to(tests)): path.read_text() for path in tests.rglob("test_*.py")}
    for page in sorted((ROOT / "docs").glob("*.md")):
        for file, test in re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)(?:::(test_\w+))?`", page.read_text()):
            assert file in written, f"{page.name} names {file}"
            assert not test or f"def {test}(" in written[file], f"{page.name} names {file}::{test}"


def test_the_table_of_complaints_answers_all_twenty():
    rows = re.findall(
        r"^\| (\d+)\. [^|]+\|[^|]+\|([^|]+)\|$", (ROOT / "docs" / "complaints.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(range(1, 21))
    assert all("test_" in shown for _, shown in rows)


def test_every_package_has_its_page_of_reference_and_every_page_its_package():
    named = {
        re.search(r"::: saccade\.(\w+)", page.read_text())[1] for page in (ROOT / "docs" / "reference").glob("*.md")
    }
    own = {path.parent.name for path in (ROOT / "src/saccade").glob("*/__init__.py")}
    assert named == own - {"cli"} | {"core"}, "the command explains itself by --help"
    assert {f"reference/{name}.md" for name in named} <= set(
        re.findall(r"reference/\w+\.md", (ROOT / "docs/index.md").read_text())
    )


def test_the_glossary_has_the_names_of_settings_elsewhere():
    """The table of docs/glossary.md is the one by which the command answers unknown options."""
    page = (ROOT / "docs" / "glossary.md").read_text().partition("## Settings of other libraries")[2]
    table = {}
    for theirs, ours in re.findall(r"^\| (`.*) \| (`.*) \|$", page, re.MULTILINE):
        names = tuple(name.replace("-", "_") for name in re.findall(r"`--([\w-]+)`", ours))
        table |= dict.fromkeys(re.findall(r"`(\w+)`", theirs), names)
    assert table == SYNONYMS
