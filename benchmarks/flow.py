"""draft"""
from __future__ import annotations
import argparse, json, sys, tempfile, time
from dataclasses import dataclass, replace
from pathlib import Path
import torch
from torch import Tensor
from flow_models import SMALL, TINY, Shape, save
from flow_plain import PlainLoop
from measure import flops, interleaved, load, matmul_rate, peak_mb, ratio
from saccade.core import Problem, Rollout, seeds
from saccade.models.snapshot import Snapshot
from saccade.objectives.policy_gradient import PolicyGradient, remember_reference
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.training.learner import Update, Updates

CLIP, BETA = 1e-4, 0.04

@dataclass(frozen=True)
class Case:
    shape: Shape
    prompts: int
    group: int
    steps: int
    images: int
    micro_rows: int
    micro_decisions: int

CASES = {"tiny": Case(TINY, 8, 8, 10, 8, 64, 3), "small": Case(SMALL, 1, 4, 4, 4, 4, 1)}

def policy_of(case, folder, precision="float32", **kw):
    model = FlowModel(str(folder), size=case.shape.size, sampling_steps=case.steps, guidance=4.5, text_length=case.shape.zeros, lora_rank=32, lora_alpha=64.0, precision=precision, device="cpu")
    policy = build(model, range(case.steps - 1))
    reference = Snapshot(policy.trained)
    with torch.no_grad():
        g = torch.Generator().manual_seed(1)
        for p in policy.trained: p.add_(0.02 * torch.randn(p.shape, generator=g))
    return replace(policy, **kw), reference

def problems_of(case):
    words = ["a red ring", "two blue squares", "one green star", "three small cups", "the old lamp", "a bird", "five pears", "a wooden horse"]
    return [Problem(i, words[i % 8]) for i in range(case.prompts) for _ in range(case.group)]

def ours_update(policy, reference, rollout, beta, case, optimizer):
    learner = Updates([Update("flow", PolicyGradient(policy, CLIP, beta=beta, kl="drift"), policy.trained, optimizer)], micro_rows=case.micro_rows, micro_decisions=case.micro_decisions)
    if beta: remember_reference(policy, reference, rollout, case.micro_rows)
    return learner.update(rollout)

def opt(policy, seen=None):
    o = torch.optim.SGD(policy.trained, lr=0.0)
    if seen is not None:
        o.register_step_pre_hook(lambda *_: seen.append(torch.cat([p.grad.flatten() for p in policy.trained])))
    return o

def main():
    ap = argparse.ArgumentParser(); ap.add_argument("case"); ap.add_argument("--reps", type=int, default=3); ap.add_argument("--micro", default=""); a = ap.parse_args()
    torch.set_num_threads(1)
    case = CASES[a.case]
    if a.micro:
        r, d = map(int, a.micro.split(",")); case = replace(case, micro_rows=r, micro_decisions=d)
    folder = save(case.shape, Path(tempfile.mkdtemp()))
    P = {n: policy_of(case, folder, precision=n) for n in ("float32", "bfloat16")}
    plain = PlainLoop(P["float32"][0], case.images)
    problems = problems_of(case); sd = seeds(3, len(problems)); prompts = [p.inputs for p in problems]
    adv = torch.randn(len(problems), generator=torch.Generator().manual_seed(2))
    print(sum(p.numel() for p in P["float32"][0].backbone.transformer.parameters()) / 1e6, "M, tokens")
    drawn = plain.sample(prompts, sd)
    xp = torch.cat([torch.stack(d.latents[:-1], 1) for d in drawn]); lp = torch.cat([torch.stack(d.logps, 1) for d in drawn])
    rolls = {}
    for n, (pol, ref) in P.items():
        r = rolls[n] = pol.rollout(problems, sd); r.advantage_BT = r.credit(adv)
        print(n, "latents rel", ((r.decisions["x_BT"] - xp).norm() / xp.norm()).item(), "logp", (r.logp_BT - lp).abs().max().item(), "pictures", (r.outputs - torch.cat([d.pictures for d in drawn])).abs().max().item())
    for beta in (0.0, BETA):
        g0 = []; plain.update(drawn, adv, CLIP, beta, opt(plain.policy, g0))
        for n, (pol, ref) in P.items():
            g1 = []; m = ours_update(pol, ref, rolls["float32"], beta, case, opt(pol, g1))
            print("beta", beta, n, "grad rel", ((g1[0] - g0[0]).norm() / g0[0].norm()).item(), g0[0].norm().item(), {k: v for k, v in m.items() if "gap" in k or "clipped" in k})
    works = {"plain": lambda: plain.sample(prompts, sd)}
    for n, (pol, ref) in P.items():
        def f(pol=pol):
            pol.said.kept.clear(); pol.rollout(problems, sd)
        works[n] = f
    fl = flops(works["float32"]); t, rates = interleaved(works, a.reps)
    floor = [fl / r for r in rates]
    print("SAMPLING images/s", {n: round(len(problems) / sorted(x.cpu)[len(x.cpu)//2], 3) for n, x in t.items()}, "x floor", {n: [round(c / f, 2) for c, f in zip(x.cpu, floor)] for n, x in t.items()}, "x plain", {n: round(ratio(t["plain"], x), 2) for n, x in t.items()}, "wall", {n: [round(w,2) for w in x.wall] for n, x in t.items()})
    for beta in (0.0, BETA):
        works = {"plain": lambda: plain.update(drawn, adv, CLIP, beta, opt(plain.policy))}
        for n, (pol, ref) in P.items():
            works[n] = lambda pol=pol, ref=ref, n=n: ours_update(pol, ref, rolls[n], beta, case, opt(pol))
        fl = flops(works["float32"]); t, rates = interleaved(works, a.reps)
        floor = [fl / r for r in rates]
        print("UPDATE beta", beta, "samples/s", {n: round(len(problems) / sorted(x.cpu)[len(x.cpu)//2], 3) for n, x in t.items()}, "x floor", {n: [round(c / f, 2) for c, f in zip(x.cpu, floor)] for n, x in t.items()}, "x plain", {n: round(ratio(t["plain"], x), 2) for n, x in t.items()})
    print("load", load())
main()
