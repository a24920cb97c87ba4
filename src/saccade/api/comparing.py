"""Several runs side by side: their scores before and after, and the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade import catalog


def report(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the HTML page of some runs, with the recorded checks of their recipes, to ``out`` and return its path."""
    from saccade.report import page as html
    from saccade.training import folder as on_disk

    folders = [Path(run) for run in runs]
    configs = [on_disk.config(folder) for folder in folders]
    recipes = dict.fromkeys(str(config.get("file") or config.get("recipe")) for config in configs)
    checks = [path for name in recipes if (path := catalog.result_file(name)).is_file()]
    return html.write_page(folders, Path(out), checks)


def compare(runs: Sequence[str | Path], page: str | Path | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of some runs, by the names that tell the runs apart: ``{run: {"before": {…}, "after": {…}}}``.

    With ``page`` their HTML page is written there too. ValueError for a folder that is no run.
    """
    from saccade.report.record import read_all

    if page:
        report(runs, page)

    records = read_all([Path(run) for run in runs])
    return {record.label: dict(zip(("before", "after"), record.scores())) for record in records}
