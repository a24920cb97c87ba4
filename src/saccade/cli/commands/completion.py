"""`saccade completion`: a script by which bash or zsh completes commands, recipes, presets and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

from saccade import catalog
from saccade.cli.parsing import parse
from saccade.config import flags

_SCRIPT = """{zsh}_saccade() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  if (( COMP_CWORD == 1 )); then
    words="{commands}"
  elif [[ $before == --preset ]]; then
    case ${{COMP_WORDS[2]}} in
{presets}
    esac
  elif [[ $current == -* ]]; then
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{settings}
    esac
    case ${{COMP_WORDS[1]}} in
{options}
    esac
  elif (( COMP_CWORD == 2 )); then
    case ${{COMP_WORDS[1]}} in
{names}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _saccade saccade
"""
_OF_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True)
class Options:
    """Print a script that completes commands, names of recipes, presets and settings; other words are files.

    bash: eval "$(saccade completion bash)" in ~/.bashrc, or the output in a file there. zsh: the same in ~/.zshrc.
    The settings are those of the recipes at the time; it takes some seconds to read them all.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """bash or zsh."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    print(script(parse(Options, words, "saccade completion").shell), end="")
    return 0


def script(shell: str) -> str:
    """The script for bash or zsh."""
    from saccade.cli import COMMANDS
    from saccade.models.loading import miniatures

    recipes = {name: catalog.load(name) for name in catalog.recipes()}
    return _SCRIPT.format(
        zsh=_OF_ZSH if shell == "zsh" else "",
        commands=" ".join(COMMANDS),
        presets=_cases({name: list(recipe.PRESETS) for name, recipe in recipes.items()}),
        settings=_cases({f'"train {name}"': flags(recipe.Settings) for name, recipe in recipes.items()}),
        options=_cases({name: [*_options(name), "--help"] for name in COMMANDS}),
        names=_cases(
            {
                "train|show|check": list(recipes),
                "sample|eval|export": miniatures(),
                "miniature": ["list", "build"],
                "completion": ["bash", "zsh"],
            }
        ),
    )


def _options(command: str) -> list[str]:
    """The options of a command that every call of it has."""
    kind = import_module(f"saccade.cli.commands.{command}").Options
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    named = [name for name, hint in hints.items() if tyro.conf.Positional not in get_args(hint)]
    return ["--" + name.replace("_", "-") for name in named]


def _cases(words: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f'      {pattern}) words+=" {" ".join(each)}";;' for pattern, each in words.items())
