"""`saccade sample`: pictures from a run or a model, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from saccade.cli import subjects
from saccade.cli.parsing import Flag, parse
from saccade.naming import nearest


@dataclass(frozen=True)
class Options:
    """Draw prompts with a run, at its newest checkpoint, or with a model.

    Where a prompt for an editor begins with a picture file, that picture is edited.
    A run that has a rewriter shows what it made of each prompt. A language model only rewrites: it prints, no file.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run's folder, a miniature's name, a model folder or a hub id."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT…", help_behavior_hint="")]
    """What to draw; each prompt is a row of the picture."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "sample.png"
    """The picture; several are laid out in a grid."""
    count: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    """The same seed gives the same pictures."""
    no_rewrite: Flag = False
    """Draw the prompts of a run as they are, without its rewriter."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade sample")
    _refuse(options)
    prompts = [prompt for prompt in options.prompts for _ in range(options.count)]
    items = _draw(options, prompts)
    drawn = "image" in items[0]
    for item in items[:: options.count if drawn else 1]:
        print(f"{item['prompt']} → {item['text']}" if item.get("text") else item["prompt"])
    if drawn:
        from saccade.cli.pictures import write_grid

        images = [item["image"] for item in items]
        write_grid([images[i : i + options.count] for i in range(0, len(images), options.count)], Path(options.out))
        print(options.out)
    return 0


def _refuse(options: Options) -> None:
    from saccade.cli.pictures import SUFFIXES

    if not options.prompts:
        raise ValueError('missing PROMPT: what to draw, such as "a red ring above two blue squares"')
    if options.count < 1:
        raise ValueError(f"--count must be 1 or more, not {options.count}")
    for prompt in options.prompts:
        word = next(iter(prompt.split()), "")
        if Path(word).suffix.lower() in SUFFIXES and not Path(word).is_file():
            raise ValueError(f"there is no picture '{word}', with which the prompt '{prompt}' begins")
    suffix = Path(options.out).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"'{options.out}' is no kind of picture; nearest: {nearest(suffix, SUFFIXES)} (of {', '.join(SUFFIXES)})"
        )


def _draw(options: Options, prompts: Sequence[str]) -> list[Mapping[str, Any]]:
    """Items with prompt, image or text, or both."""
    from saccade.core import Problem, seeds
    from saccade.worlds.questions.task import question_of

    seeds_B = seeds(options.seed, len(prompts))
    if subjects.is_run(options.path):
        trained = subjects.open_run(options.path)
        policies = _without_rewriter(trained.policies, options) if options.no_rewrite else trained.policies
        return trained.recipe.sample(trained.settings, policies, list(prompts), seeds_B)
    if options.no_rewrite:
        raise ValueError(f"{options.path} is a model: it has no rewriter that --no-rewrite could switch off")
    problems = [Problem(i, prompt) for i, prompt in enumerate(prompts)]
    if subjects.draws(options.path):
        policy = subjects.drawing_policy(options.path)
        if subjects.edits(policy):
            problems = [Problem(i, question_of(prompt)) for i, prompt in enumerate(prompts)]
        drawn = policy.greedy().rollout(problems, seeds_B)
        return [{"prompt": prompt, "image": image} for prompt, image in zip(prompts, drawn.outputs)]
    written = subjects.writing_policy(options.path).rollout(problems, seeds_B)
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, written.outputs)]


def _without_rewriter(policies: Mapping[str, Any], options: Options) -> Mapping[str, Any]:
    if "rewriter" not in policies:
        raise ValueError(f"the run in {options.path} has no rewriter that --no-rewrite could switch off")
    return {name: policy for name, policy in policies.items() if name != "rewriter"}
