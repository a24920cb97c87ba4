"""The `saccade` command: commands by name, exit statuses and errors.

0 done, or the claim holds; 1 the claim does not hold, or a run failed; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from saccade.cli.output import HelpShown, meant, say_error
from saccade.naming import suggestion

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
    "completion": "a script that completes commands and settings in bash or zsh",
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
    if words is None:
        return _process(sys.argv[1:])
    words = list(words)
    for library in ("HF_HUB", "TRANSFORMERS", "DIFFUSERS"):  # their warnings; this package prints its own line
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows another one
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_gone():
            raise
        # head or less has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _process(words: Sequence[str]) -> int:
    """Run the command line of the process, which is all that the process does."""
    # SIGTERM, and SIGHUP of a terminal that closes, interrupt a command as Ctrl-C does; an ignored one stays so.
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    warnings.formatwarning = _one_line
    status = main(words)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            # No traceback from a library that is shutting down; what was interrupted ends by itself.
            signal.signal(number, signal.SIG_IGN if status == 130 else lambda *_: os._exit(130))
    return status


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
            raise ValueError(
                f"unknown command '{words[0]}'{suggestion(words[0], COMMANDS) or '; saccade --help lists them'}"
            )
        return import_module(f"saccade.cli.commands.{words[0]}").main(words[1:])
    except HelpShown:
        return 0
    except SystemExit as end:
        say_error(f"code of this command called sys.exit({'' if end.code is None else repr(end.code)})")
        return 1
    except KeyboardInterrupt:
        say_error("interrupted")
        return 130
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        if not meant(error):
            traceback.print_exc()
        say_error(error)
        return 2
    except Exception as error:
        from saccade.core import EnvironmentFailed, NothingJudged  # loads torch, which was loaded if it is one of them

        if not isinstance(error, (EnvironmentFailed, NothingJudged)):
            raise
        say_error(error)
        return 1


def _reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads: another pipe that broke is an error."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package as one line for people; those of libraries with their place in the code."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"saccade: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
