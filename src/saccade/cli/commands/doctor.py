"""`saccade doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from saccade import __version__
from saccade.cli.output import show_table
from saccade.cli.parsing import parse

Row = tuple[str, str, str]
"""What is checked, ok | missing | "", and its version or how to install it."""


@dataclass(frozen=True)
class Options:
    """Versions, devices, fonts, miniatures, free disk; the install line of every extra that is missing.

    Exit status 0 if all that every command needs is there, else 1.
    """


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    parse(Options, words, "saccade doctor")
    needed = [("saccade", "", __version__), ("python", "", platform.python_version()), *_dependencies(), *_models()]
    show_table(("", "", ""), [*needed, *_machine(), *_extras()])
    return 1 if any(state == "missing" for _, state, _ in needed) else 0


def _requirements() -> dict[str, list[Requirement]]:
    """Packages by the extra that asks for them, "" for those that all need; the dev extra is left out."""
    found: dict[str, list[Requirement]] = {}
    for line in metadata.requires("saccade") or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        found.setdefault(extra[1] if extra else "", []).append(Requirement(line))
    return {extra: needed for extra, needed in found.items() if extra != "dev"}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _dependencies() -> list[Row]:
    return [_dependency(needed, _version(needed.name)) for needed in _requirements().get("", [])]


def _dependency(needed: Requirement, version: str | None) -> Row:
    if version is None:
        return needed.name, "missing", f"pip install '{needed.name}{needed.specifier}'"
    if not needed.specifier.contains(version, prereleases=True):
        return needed.name, "untested", f"{version}; tested are {needed.specifier}"
    return needed.name, "ok", version


def _extras() -> list[Row]:
    rows = []
    for extra, needed in _requirements().items():
        if extra:
            there = {each.name: _version(each.name) for each in needed}
            installed = ", ".join(f"{name} {version}" for name, version in there.items() if version)
            complete = all(there.values())
            advice = installed if complete else f"pip install 'saccade[{extra}]'"
            rows.append((f"extra {extra}", "ok" if complete else "", advice))
    return rows


def _models() -> list[Row]:
    from saccade.cli.commands.miniature import builders, present

    rows: list[Row] = []
    for name in builders():
        folder = present(name)
        advice = str(folder) if folder else f"saccade miniature build {name}"
        rows.append((f"miniature {name}", "ok" if folder else "missing", advice))
    return [*rows, *_fonts()]


def _fonts() -> list[Row]:
    from saccade.worlds.shapes import fonts

    try:
        fonts.width("A", fonts.FONTS[0])  # draws the letters of all fonts
        return [("fonts", "ok", ", ".join(fonts.FONTS))]
    except ValueError as error:
        return [("fonts", "missing", str(error))]


def _machine() -> list[Row]:
    import torch

    from saccade.tools.render import sandbox
    from saccade.training.provenance import machine

    offered = sandbox.offered()
    missing = [part for part in sandbox.PARTS if part not in offered]
    about = machine()
    threads = f"{torch.get_num_threads()} threads, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'active')}"
    disk = shutil.disk_usage(os.getcwd()).free / 1e9
    return [
        ("processor", "", f"{about['cpu']}, {about['cores']} cores, {threads}"),
        ("cuda", "", f"{torch.version.cuda}, {about['gpu']}" if about["gpu"] else "none"),
        ("free disk", "", f"{disk:.0f} GB in this folder"),
        ("renderers", "", "; ".join([*offered, *(f"this system does not offer: {part}" for part in missing)])),
    ]
