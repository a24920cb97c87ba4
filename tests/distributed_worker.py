"""What each process of tests/test_distributed.py runs."""

from __future__ import annotations

import copy
import os
import sys

import torch

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Loss, Problem
from saccade.math.advantages import group_advantage
from saccade.models.sharding import full_tensors, shard
from saccade.policies import flow, tokens
from saccade.random import stream
from saccade.training import distributed
from saccade.training.feeds import OnPolicy
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates

torch.set_num_threads(1)


def policy_of(kind: str, folder: str):
    if kind.startswith("flow"):
        cut = dict(sharded=True, lora_rank=2 if "lora" in kind else 0) if "sharded" in kind else {}
        model = flow.FlowModel(folder, size=16, sampling_steps=3, guidance=2.0, text_length=1, **cut)
        return flow.build_flow_policy(model, stochastic=(0, 1)), [Problem(i, f"{i} red rings") for i in range(4)]
    chat = lambda problem: str(problem.inputs)
    model = tokens.TokenModel(folder, max_new_tokens=6, sharded="sharded" in kind)
    return tokens.build_token_policy(model, chat), [Problem(i, "a b c"[i:]) for i in range(4)]


def steps(kind: str, out: str, folder: str, only_start: str = "") -> None:
    """Three steps of GRPO; the reward is a fixed number of each attempt's seed, so that rounding cannot flip it."""
    policy, problems = policy_of(kind, folder)

    def collect(problems, seeds_P, step):
        rollout = sample_groups(policy.rollout, problems, seeds_P, 4)
        _, seeds_B = None, torch.stack([stream(seeds_P, "sample", k) for k in range(4)], 1).flatten()
        reward = (seeds_B % 1000).float() / 1000
        rollout.advantage_BT = rollout.broadcast(
            group_advantage(reward, rollout.group_B, scale="batch", all_sum=distributed.all_sum)
        )
        return rollout

    loss = PolicyGradient(policy, clip=0.2, average="rows" if kind.startswith("rewriter") else "decisions")
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05, momentum=0.5)
    learner = Updates([Update("it", loss, policy.parameters(), optimizer)], minibatches=2, micro_rows=3)
    feed = OnPolicy(problems, collect, per_step=4, seed=3)
    for step in range(0 if only_start else 3):
        learner.update(feed(step))
        # As a checkpoint has them: whole, whatever is cut.
        kept = [copy.deepcopy(full_tensors(part.state_dict())) for part in (policy, learner)]
        for part, state in zip((policy, learner), kept):
            part.load_state_dict(state)
    state = full_tensors(policy.state_dict())
    if os.environ.get("RANK", "0") == "0":
        torch.save({name: p.clone() for name, p in state.items()}, out)


def sharded(out: str) -> None:
    """Two modules, two losses: one reads both, each update moves its own."""
    torch.manual_seed(0)
    first, second = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)) for _ in range(2))
    modules = [first, second]
    for m in modules:
        shard(m)
    rows = distributed.shard(list(range(6)))
    x = torch.linspace(-1, 1, 24).reshape(6, 4)[rows[0] : rows[-1] + 1]
    both = lambda _: Loss((modules[0](x) * modules[1](x)).sum(), torch.tensor(float(len(x))))
    own = lambda _: Loss((modules[1](x) ** 2).sum(), torch.tensor(float(len(x))))
    learner = Updates(
        [
            Update(name, loss, list(m.parameters()), torch.optim.AdamW(m.parameters(), lr=0.05))
            for name, loss, m in (("both", both, modules[0]), ("own", own, modules[1]))
        ]
    )
    for _ in range(3):
        learner.update({})
    state = {
        f"{i}.{n}": full_tensors(p).detach().clone() for i, m in enumerate(modules) for n, p in m.named_parameters()
    }
    if os.environ.get("RANK", "0") == "0":
        torch.save(state, out)


if __name__ == "__main__":
    kind, out, *rest = sys.argv[1:]
    distributed.start(timeout_seconds=60)
    if kind == "sharded":
        sharded(out)
    else:
        steps(kind, out, *rest)
    distributed.stop()
    sys.stdout.flush()
    os._exit(0)  # as the command does: threads of the group that are still being put away can abort an orderly end
