"""Where a run's numbers come from: versions of the libraries, the commit of this code, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """What config.json says beside the settings: command, versions, commit, machine, time of the start (UTC)."""
    return {
        "command": command(),
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
        "processes": processes(),
        "started": now(),
    }


def processes() -> int:
    """How many processes work at the run (environment WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def fingerprint(file: Path) -> str | None:
    """The SHA-256 sum of a file, None where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def differences(config: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What has changed since a run with this config began or was last resumed, in words: libraries, code, files."""
    last = [config, *(config.get("resumed") or [])][-1]
    found = []
    for name, version in (last.get("versions") or {}).items():
        if (present := here["versions"].get(name)) != version:
            found.append(f"{name} {present}, not {version}")
    if last.get("commit") != here["commit"]:
        found.append(f"another commit of saccade ({here['commit']}, not {last.get('commit')})")
    for file, known in (config.get("code") or {}).items():
        if (present := fingerprint(Path(file))) != known:
            found.append(f"another {file} than it began with" if present else f"{file} gone")
    return found


def now() -> str:
    """The time of day (UTC), fine enough to order the stages of a run."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def command() -> str:
    """The command line of this process, ready for a shell."""
    program = Path(sys.argv[0])
    start = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*start, *sys.argv[1:]])


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that decide results; None for one that is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "diffusers", "transformers", "saccade"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """The commit of the checkout that holds this package, "-dirty" if files of the package differ; else None."""
    if _git("ls-files", "--error-unmatch", "core.py") is None:
        return None
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".")
    return f"{head}-dirty" if head and changes else head


def machine() -> dict[str, Any]:
    """Processor, usable cores, accelerator."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _processor(), "cores": cores, "gpu": ", ".join(gpus) or None}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
