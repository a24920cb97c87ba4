"""Speed of image tokens: codes a second of guided sampling with log-probs, and of a GRPO update.

    python benchmarks/image_tokens.py [--pictures 128] [--group 4] [--guidance 3] [--repetitions 3] [--model FOLDER]
    [--save]

A Janus model of the miniature's size with random weights, or a folder. Ours is measured against

* plain: `JanusForConditionalGeneration.generate(generation_mode="image")` and `decode_image_tokens` on the same weights
and
  prompts. It gives no log-probs: what a public trainer pays for them, a second pass, is not counted here.
* the naive update: every row read whole through plain transformers, prompt by prompt, as public trainers do.
* the floor: the FLOPs that our own run needs, counted, over the rate of a large matrix product measured beside it.

One thread, CPU seconds, medians over repetitions that take turns. Before anything is timed, the likeliest codes of both
sides are compared, and the gradients of both updates.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flow import rounded
from measure import flops, interleaved, load, ratio
from torch import Tensor

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Problem, Rollout
from saccade.policies.image_tokens import ImageTokenModel, ImageTokenPolicy, build_image_token_policy
from saccade.random import seeds
from saccade.training.groups import sample_groups
from saccade.training.provenance import commit, machine, now, versions
from saccade.worlds import shapes


def random_model(folder: Path) -> Path:
    """The miniature without its training."""
    import numpy as np

    from saccade.builders.janus_shapes import build
    from saccade.builders.janus_shapes.parts import assemble, make_processor

    cfg = build.Settings()
    processor = make_processor(cfg.size, build.texts(cfg, np.random.default_rng(0)))
    assemble(cfg, processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def generated(policy: ImageTokenPolicy, problems: list[Problem], do_sample: bool) -> Tensor:
    """Codes by plain transformers ``[B, M]``."""
    language = policy.image_generator.language
    texts = [language.apply_template(policy.prompt(problem)) for problem in problems]
    inputs = language.processor(text=texts, generation_mode="image", padding=True, return_tensors="pt")
    return language.model.generate(
        **inputs, generation_mode="image", do_sample=do_sample, guidance_scale=policy.guidance
    )


def naive_gradient(policy: ImageTokenPolicy, rollout: Rollout) -> None:
    """Gradients of sum(A log p) through plain transformers, every row with its whole prompt."""
    model, kept = policy.image_generator.network, rollout.decisions
    begin = int(kept["begin_B"][0])
    embeds = model.get_input_embeddings()(kept["ids_BL"][:, :begin])
    codes = model.prepare_embeddings_for_image_generation(policy.codes(rollout)[:, :-1])
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([embeds, codes], 1), attention_mask=kept["attention_BL"][:, :-1], use_cache=False
    ).last_hidden_state[:, begin - 1 :]
    logp = model.model.generation_head(hidden).log_softmax(-1).gather(-1, policy.codes(rollout)[..., None])[..., 0]
    (-(rollout.advantage_BT * logp).sum()).backward()


def gradient(policy: ImageTokenPolicy, work: Callable[[], Any]) -> Tensor:
    for p in policy.trained:
        p.grad = None
    work()
    return torch.cat([p.grad.flatten() for p in policy.trained if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, value in (
        ("pictures", int, 128),
        ("group", int, 4),
        ("guidance", float, 3.0),
        ("repetitions", int, 3),
    ):
        parser.add_argument(f"--{name}", type=kind, default=value)
    parser.add_argument("--model", default="")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/image_tokens.json too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = given.model or str(random_model(Path(place)))
        policy = build_image_token_policy(ImageTokenModel(folder, guidance=given.guidance))
    problems = shapes.sample_problems(given.pictures // given.group, 0, shapes.TAGS[:6])
    rows = [problem for problem in problems for _ in range(given.group)]
    sample = lambda: sample_groups(policy.rollout, problems, seeds(0, len(problems), "test"), given.group)
    rollout = sample()
    rollout.advantage_BT = torch.randn(rollout.logp_BT.shape, generator=torch.Generator().manual_seed(0))
    update = lambda: PolicyGradient(policy, 0.2)(rollout).total.backward()

    cold = ImageTokenPolicy(policy.image_generator, [], guidance=given.guidance, temperature=1e-5)
    few = rows[:: given.group][:8]
    alike = (cold.codes(cold.rollout(few, seeds(0, len(few), "test"))) == generated(policy, few, False)).float().mean()
    ours, naive = gradient(policy, update), gradient(policy, lambda: naive_gradient(policy, rollout))
    print(
        f"likeliest codes alike {float(alike):.4f}, gradients apart by"
        f" {float((ours - naive).norm() / naive.norm()):.1e}"
    )

    works = {
        "sampling": sample,
        "plain sampling": lambda: policy.image_generator.network.decode_image_tokens(generated(policy, rows, True)),
        "update": lambda: gradient(policy, update),
        "naive update": lambda: gradient(policy, lambda: naive_gradient(policy, rollout)),
    }
    timings, rates, _ = interleaved(works, given.repetitions)
    codes, found = (
        rollout.logp_BT.numel(),
        {"date": now(), "commit": commit(), "machine": machine(), "versions": versions()},
    )
    for name, timing in timings.items():
        seconds = median(timing.cpu)
        print(f"{name:15} {seconds:6.2f} s of CPU  {codes / seconds:8.0f} codes/s")
    for ours_name, other in (("sampling", "plain sampling"), ("update", "naive update")):
        needed = flops(works[ours_name]) / median(rates)
        floor = median(timings[ours_name].cpu) / needed
        found[ours_name] = {
            "times plain": ratio(timings[other], timings[ours_name]),
            "times floor": floor,
            "load": load(),
        }
        print(
            "{}: {times plain:.2f} x plain, {times floor:.2f} x floor; load {load}".format(
                ours_name, **found[ours_name]
            )
        )
    if given.save:
        place = Path(__file__).parent / "results" / "image_tokens.json"
        place.write_text(json.dumps(rounded(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
