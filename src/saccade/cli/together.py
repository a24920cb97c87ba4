"""One command as several processes (torchrun): all end when one does, each reason is one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from saccade.cli.output import HelpShown, say_error


def alone() -> bool:
    """Whether this process is the only one of its run (environment WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE") or 1) == 1


def together(work: Callable[[], int]) -> int:
    """Do the work, which gives an exit status; as one of several processes, tell an error in one line and be gone."""
    if alone():
        return work()
    from saccade.training import distributed

    try:
        distributed.start()
        status = work()
        if status == 0:
            distributed.stop()
    except BaseException as error:
        status = _report(error)
    sys.stdout.flush()
    sys.stderr.flush()
    # Leaving in good order would wait for the others, who may be waiting for this process.
    os._exit(status)


def _report(error: BaseException) -> int:
    """Say why this process ends; its exit status."""
    if isinstance(error, HelpShown):
        return 0
    if isinstance(error, KeyboardInterrupt):
        say_error("interrupted")
        return 130
    if isinstance(error, (ValueError, OSError)):
        say_error(error)
        return 2
    traceback.print_exc()
    say_error(f"{type(error).__name__}: {error}")
    return 1
