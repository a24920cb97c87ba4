"""The `saccade` command: commands by name, exit statuses and errors.

0 done, or the claim holds; 1 the claim does not hold, or a run failed; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from saccade.cli.output import say_error
from saccade.naming import nearest

COMMANDS = {
    "list": "the systems: number, name, family, result of the check",
    "show": "one system: the paper, its claims, the recipe's presets",
    "train": "run a recipe, or resume a run",
    "check": "method and baselines at equal budget over several seeds: does the claim hold?",
    "compare": "the scores of several runs side by side, and their page",
    "eval": "the scores of a run or a model",
    "sample": "pictures or texts of a run or a model",
    "score": "the rewards of a folder of pictures",
    "export": "write a run's weights as plain diffusers / transformers folders",
    "report": "one HTML page of one or several runs",
    "miniature": "list or build the tiny checkpoints",
    "doctor": "what is installed, and what is missing",
}

_USAGE = """usage: saccade COMMAND …

Reinforcement learning of models that see and draw.

{commands}

saccade COMMAND --help has the options of a command. A first run:
  saccade train promptrl
The same on several GPUs or machines:
  torchrun --nproc-per-node 8 -m saccade train promptrl
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process if none is given) and return its exit status."""
    words = list(sys.argv[1:] if words is None else words)
    for library in ("HF_HUB", "TRANSFORMERS", "DIFFUSERS"):  # their warnings; this package prints its own line
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows another one
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_USAGE.format(commands="\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())), end="")
            return 0 if words else 2
        if words[0] == "--version":
            from saccade import __version__

            print(f"saccade {__version__}")
            return 0
        if words[0] not in COMMANDS:
            raise ValueError(f"unknown command '{words[0]}'; nearest: {nearest(words[0], COMMANDS)}")
        return import_module(f"saccade.cli.commands.{words[0]}").main(words[1:])
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    except KeyboardInterrupt:
        say_error("interrupted")
        return 130
    except (ValueError, OSError) as error:
        if not _meant(error):
            traceback.print_exc()
        say_error(error)
        return 2
    except Exception as error:
        from saccade.core import EnvironmentFailed, NothingJudged  # loads torch, which was loaded if it is one of them

        if not isinstance(error, (EnvironmentFailed, NothingJudged)):
            raise
        say_error(error)
        return 1


def _meant(error: BaseException) -> bool:
    """Whether an error was raised for the user, by this package or by a file of the user's.

    A ValueError from within a library is a defect and keeps its traceback; an OSError is for the user if it names a
    file.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, OSError):
        return error.filename is not None
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    libraries = (sys.prefix, sys.base_prefix)
    return last.is_relative_to(Path(__file__).parents[1]) or not any(last.is_relative_to(place) for place in libraries)
