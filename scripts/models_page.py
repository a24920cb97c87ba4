"""Writes docs/models.md from the tests of all families of pipelines, which it runs (some minutes).

python scripts/models_page.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "models" / "test_pipelines.py"
COLUMNS = {
    "samples": "samples are the plain pipeline's",
    "replay": "replay is rollout",
    "LoRA": "LoRA",
    "full": "all weights",
    "export": "export opens in diffusers",
    "flow_grpo": "a step of `flow_grpo`",
}
HEAD = """# Pipelines

Written by `python scripts/models_page.py` from `tests/models/test_pipelines.py`; not by hand. Each row is a tiny random
configuration of the real class of diffusers, saved to disk and loaded by its path as a checkpoint would be. No real
weights and no GPU were used.

`StableDiffusion3Pipeline`, `FluxPipeline` and `FluxKontextPipeline` have networks that this package calls itself, which
is faster. All others are called through their own `__call__` for one step, with a scheduler that holds one time:
guidance, signs and packing are the pipeline's. A scheduler that was not compared with the plain pipeline is refused in
one line.

"""


class Outcomes:
    """Collects the outcome of every test by family and check."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for each phase of a test."""
        name = re.search(r"test_family\[(.+)-([^-]+)\]$", report.nodeid)
        if name and (report.when == "call" or report.outcome != "passed"):
            self.found.setdefault(name[1], {})[name[2]] = report.outcome


def table(found: dict[str, dict[str, str]]) -> str:
    """Rows of the families, ✓ where a check passed, – where it has no meaning."""
    mark = {"passed": "✓", "skipped": "–", "failed": "fails"}
    rows = [
        f"| {family} | {' | '.join(mark.get(checks.get(name, ''), '') for name in COLUMNS)} |"
        for family, checks in found.items()
    ]
    return "\n".join((f"| family | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|", *rows))


def main() -> int:
    """Run the tests and write the page; the exit status of pytest."""
    outcomes = Outcomes()
    status = pytest.main([str(TESTS), "-q", "-m", "slow or not slow", "-p", "no:xdist"], plugins=[outcomes])
    (ROOT / "docs" / "models.md").write_text(HEAD + table(outcomes.found) + "\n", encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
