"""Actor-critic learning from memory, one family: SAC, TD3, REDQ and RLPD are values of the fields of `OffPolicy`.

    y    = r + discount (reduce_{k in subset} Q'_k(s', a') - [entropy in backup] alpha log pi(a' | s'))
    L_Q  = 1/2 sum_k (Q_k(s, a) - y)^2
    L_pi = alpha log pi(a | s) - reduce_k Q_k(s, a)        a reparametrised, alpha and Q held
    L_alpha = -log alpha (log pi(a | s) + H)               H the target entropy

SAC 1812.05905, TD3 1802.09477 (a' the determined action with clipped noise), REDQ 2101.05982, RLPD 2302.02948.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from saccade import random
from saccade.algorithms.acceleration import off_policy_learner
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.replay import CollectionSchedule, ReplayFeed, random_shift
from saccade.core import Action, Environment, Learner, Loss, Objective, Rollout, seeded, seeds
from saccade.envs.collector import Collector
from saccade.envs.episodes import Episode
from saccade.envs.recordings import into
from saccade.envs.rescale import ActionRange, RescaleAction
from saccade.envs.task import ControlTask, log_returns
from saccade.models.control.critics import Critics, Target
from saccade.models.control.networks import MLP, Encoder
from saccade.policies.actors import Actor, DeterministicActor, SquashedActor
from saccade.training.buffers import Buffer, Mixture
from saccade.training.learner import Update, Updates
from saccade.training.loop import fit as run_loop
from saccade.training.run import Run

_NOISE, _MEMBERS = 1, 2
"""Streams of a row's random numbers."""


@dataclass(frozen=True)
class OffPolicy:
    """What the members of the family differ in; the defaults are SAC's."""

    critics: int = 2
    """Networks N in the ensemble."""
    subset: int = 2
    """Random members M whose least value is the target; N takes all."""
    actor_value: Literal["min", "mean", "first"] = "min"
    """What of the members' values the actor raises."""
    entropy_in_backup: bool = True
    """Whether the entropy of what comes next counts in the target."""
    target_entropy: float = -1.0
    """Entropy that the temperature holds, for each dimension of the action."""
    critic_norm: bool = False
    """LayerNorm in the critics."""
    smoothing: float = 0.0
    """Spread of the noise on the next action in the target (TD3), cut off at ``smoothing_clip``."""
    smoothing_clip: float = 0.5
    gamma: float = 0.99
    """Discount."""
    n_step: int = 1
    """Rewards before the bootstrap."""
    tau: float = 0.005
    """How far the target networks follow at each critic step."""
    updates: int = 1
    """Critic steps for each step of the environments."""
    actor_every: int = 1
    """Critic steps for each step of the actor."""
    offline_share: float = 0.0
    """Part of every batch that is from recorded data."""


SAC = OffPolicy()

TD3 = OffPolicy(actor_value="first", entropy_in_backup=False, smoothing=0.2, actor_every=2)

REDQ = OffPolicy(critics=10, actor_value="mean", updates=20, actor_every=20)

RLPD = OffPolicy(
    critics=10, actor_value="mean", critic_norm=True, target_entropy=-0.5, updates=20, actor_every=20, offline_share=0.5
)

REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda value_NB: value_NB.amin(0) if len(value_NB) != 2 else torch.minimum(value_NB[0], value_NB[1]),
    "mean": lambda value_NB: value_NB.mean(0),
    "first": lambda value_NB: value_NB[0],
}


@dataclass(frozen=True, eq=False)
class CriticLoss:
    """L_Q on transitions as `Buffer.sample` gives them; ``target`` are the slow critics, ``temperature`` None is alpha
    = 0.

    Members of the subset are drawn from the seed of the first row: with a subset, rows are not to be cut into
    micro-batches.
    """

    actor: Actor
    critics: Critics
    target: Critics
    how: OffPolicy
    temperature: LagrangeMultiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.backup(rollout)
        value_NB = self.critics(seen(rollout), action(rollout))
        error_NB = value_NB - target_B
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(0.5 * error_NB.square().sum(), _count(rollout, target_B), metrics)

    @torch.no_grad()
    def backup(self, rollout: Rollout) -> Tensor:
        """y: ``[B]``."""
        after, reward_B = seen(rollout, "next"), rollout.rewards["reward"]
        draw_BA = noise(rollout)[1]
        action_BA, logp_B = self.actor.propose(after, draw_BA)
        if self.how.smoothing:
            clip = self.how.smoothing_clip
            action_BA = (action_BA + (self.how.smoothing * draw_BA).clamp(-clip, clip)).clamp(-1, 1)
        value_B = REDUCED["min"](self.target(after, action_BA, members(rollout, self.how)))
        if self.temperature is not None and self.how.entropy_in_backup:
            value_B = value_B - self.temperature.value * logp_B
        return reward_B + rollout.extras["discount_B"] * value_B


@dataclass(frozen=True, eq=False)
class ActorLoss:
    """L_pi and, with a ``temperature``, L_alpha of the same actions: neither's gradient reaches the other's weights.

    No gradient is meant for the critics: the `Update` that has this loss names the weights of actor and temperature
    alone.
    """

    actor: Actor
    critics: Critics
    how: OffPolicy
    temperature: LagrangeMultiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        now, draw_BA = seen(rollout), noise(rollout)[0]
        action_BA, logp_B = self.actor.propose(now, draw_BA)
        value_B = REDUCED[self.how.actor_value](self.critics(now, action_BA))
        count, entropy = _count(rollout, value_B), -logp_B.detach().sum()
        if self.temperature is None:
            return Loss(-value_B.sum(), count)
        alpha = self.temperature.value.detach()
        excess_B = logp_B + self.how.target_entropy * draw_BA.shape[-1]
        total = (alpha * logp_B - value_B).sum() + self.temperature.loss(excess_B).sum()
        return Loss(total, count, {"entropy": entropy, "temperature": alpha * count})


def seen(rollout: Rollout, when: Literal["seen", "next"] = "seen") -> dict[str, Tensor]:
    """What is seen at a transition, or after it, by name: ``[B, ...]``."""
    start = f"{when}."
    return {k.removeprefix(start).removesuffix("_B"): v for k, v in rollout.decisions.items() if k.startswith(start)}


def action(rollout: Rollout) -> Tensor:
    """The action that was taken: ``[B, A]``."""
    return rollout.decisions["action_BT"][:, 0]


def noise(rollout: Rollout) -> Tensor:
    """Standard normal draws of the present actions and of the next ones: ``[2, B, A]``, each row's from its seed."""
    taken = action(rollout)
    return random.normal(rollout.extras["seed_B"], (2, *taken.shape[1:]), _NOISE).transpose(0, 1).to(taken)


def members(rollout: Rollout, how: OffPolicy) -> Tensor | None:
    """The critics whose least value is the target ``[M]``, from the first row's seed; None if all are."""
    if how.subset >= how.critics:
        return None
    return random.uniform(rollout.extras["seed_B"][:1], (how.critics,), _MEMBERS)[0].argsort()[: how.subset]


def _count(rollout: Rollout, like_B: Tensor) -> Tensor:
    return like_B.new_tensor(float(len(rollout)))


_WEIGHTS, _EXPERIENCE = -2, -3
"""Streams of seeds."""


@dataclass(frozen=True)
class Replaying:
    """How an actor and its critics learn from memory; the defaults are SAC's."""

    how: OffPolicy = SAC
    hidden: tuple[int, ...] = (256, 256)
    """Layers of actor and critics."""
    convolutions: str = "small"
    """Of pictures: nature for 84 pixels, small for 20 to 64; actor and critics share them, and the critics alone
    train them.
    """
    shift: int = 0
    """Pixels by which pictures of a batch are shifted at random."""
    batch: int = 256
    """Transitions of a gradient step."""
    lr: float = 3e-4
    """Learning rate of Adam, for all."""
    memory: int = 1_000_000
    """Transitions that are kept."""
    warm_up: int = 100
    """Steps in the environment with random actions, before anything is learned."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the update's products; bfloat16 keeps weights in float32 and is faster where the CPU has it."""
    temperature: float = 1.0
    """Weight of a drawn action's entropy at the start; it moves slowly, so where returns are small and steps few it
    must begin small.
    """
    exploration: float = 0.1
    """Spread of the noise with which a deterministic actor explores."""


@dataclass(frozen=True)
class TrainSchedule:
    """How long it is learned for, and how often that is looked at."""

    rows: int = 1
    """Episodes that are acted in side by side."""
    env_steps: int = 5000
    """Steps in the environment, those of the warm-up included."""
    evaluate_every: int = 1000
    """Steps in the environment between evaluations, from the warm-up on."""
    save_every: int = 2500
    """Steps in the environment between checkpoints."""
    log_every: int = 200
    """Gradient steps that share a line of metrics."""


MILLION_STEPS = TrainSchedule(env_steps=1_000_000, evaluate_every=50_000, save_every=50_000, log_every=2000)


@dataclass(eq=False)
class Agent:
    """The networks of a run; ``temperature`` where the actor is drawn from a distribution, ``slow`` (its target)
    where it is not.
    """

    actor: Actor
    critics: Critics
    target: Target
    temperature: LagrangeMultiplier | None
    slow: Target | None
    range: ActionRange

    @property
    def policy(self) -> RescaledActor:
        """The actor in units of the environment."""
        return RescaledActor(self.actor, self.range)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, by name."""
        parts = {"policy": self.policy, "critics": self.critics, "target": self.target}
        return parts | {k: v for k, v in (("temperature", self.temperature), ("slow", self.slow)) if v is not None}


class RescaledActor:
    """An actor whose actions, from -1 to 1, are told in units of the environment."""

    def __init__(self, actor: Actor, range: ActionRange):
        self.actor, self.range = actor, range

    def act(self, seen: Mapping[str, Tensor], draw_BA: Tensor | None) -> Action:
        acted = self.actor.act(seen, draw_BA)
        return acted._replace(action_B=torch.from_numpy(self.range.from_unit(acted.action_B.numpy())))

    def state_dict(self) -> Mapping[str, Any]:
        return self.actor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.actor.load_state_dict(state)

    def export(self, folder: Path) -> None:
        self.actor.export(folder)


def agent(cfg: Replaying, environment: Environment, seed: int, stochastic: bool = True) -> Agent:
    """Networks for what an environment shows, their weights from the seed. ValueError for actions without bounds."""
    box = environment.action_space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not box.is_bounded():
        raise ValueError(f"{environment.name}: actions are {box}; off-policy learning needs a vector with bounds")
    actions, how = box.shape[0], cfg.how
    with seeded(int(seeds(seed, 1, key=_WEIGHTS))):
        encoder = Encoder(environment.observation_space, convolutions=cfg.convolutions)
        critics = Critics(encoder, encoder.size, actions, how.critics, cfg.hidden, how.critic_norm)
        trunk = MLP((encoder.size, *cfg.hidden, 2 * actions if stochastic else actions), "relu", gain=0.01)
    actor = (
        SquashedActor(encoder, trunk, True) if stochastic else DeterministicActor(encoder, trunk, True, cfg.exploration)
    )
    temperature, slow = (LagrangeMultiplier(cfg.temperature), None) if stochastic else (None, Target(trunk, how.tau))
    reach = ActionRange(tuple(box.low.tolist()), tuple(box.high.tolist()))
    return Agent(actor, critics, Target(critics, how.tau), temperature, slow, reach)


def learner(cfg: Replaying, agent: Agent) -> Learner:
    """Critics, then actor and temperature; written out where the networks allow it, the same steps within rounding."""
    actor, critics, how, low = agent.actor, agent.critics, cfg.how, cfg.precision == "bfloat16"
    if fast := off_policy_learner(actor, critics, agent.target, how, agent.temperature, cfg.lr, low):
        return fast
    acting = _slow_actor(agent) if agent.slow else actor
    judged = _rounded(CriticLoss(acting, critics, agent.target.net, how, agent.temperature), low)
    raised = _rounded(ActorLoss(actor, critics, how, agent.temperature), low)
    own = [*actor.trained, *([agent.temperature.log] if agent.temperature is not None else [])]
    adam = partial(torch.optim.Adam, lr=cfg.lr, fused=True)
    trained = list(critics.parameters())
    follow, trail = agent.target.soft_update, agent.slow.soft_update if agent.slow else None
    critic = Update("critic", judged, trained, adam(trained), max_grad_norm=float("inf"), after=lambda taken: follow())
    moved = None if trail is None else (lambda taken: trail())
    return Updates(
        [critic, Update("actor", raised, own, adam(own), every=how.actor_every, max_grad_norm=float("inf"), after=moved)]
    )


def train(
    task: ControlTask,
    cfg: Replaying,
    course: TrainSchedule,
    own: Agent,
    seed: int,
    run: Run,
    shown: Buffer | None = None,
) -> dict[str, dict[str, float]]:
    """Act, remember, learn, evaluate, save; ``shown`` is recorded data. Returns the scores of test episodes before
    and after.
    """
    return run_loop(
        feed(cfg, task.make(course.rows), own, seed, log_returns(run), shown),
        learner(cfg, own),
        run,
        max(course.env_steps - cfg.warm_up, 0) * cfg.how.updates,
        state=own.state(),
        evaluate=lambda step: task.score(own.policy, run.show(step)),
        evaluate_every=course.evaluate_every * cfg.how.updates,
        save_every=course.save_every * cfg.how.updates,
        log_every=course.log_every,
    )


def feed(
    cfg: Replaying,
    environment: Environment,
    agent: Agent,
    seed: int,
    tell: Callable[[int, list[Episode]], None] = lambda step, episodes: None,
    shown: Buffer | None = None,
) -> ReplayFeed:
    """Batches of transitions, of what the agent does in the environment and, for ``how.offline_share`` of them, of
    ``shown``.
    """
    rows, how = environment.count, cfg.how
    if (shown is None) != (how.offline_share == 0):
        raise ValueError(
            f"offline_share {how.offline_share} and {'no' if shown is None else 'some'} recorded data do not go together"
        )
    online = Buffer(cfg.memory, 2 * seed)
    memory = online if shown is None else Mixture([(shown, how.offline_share), (online, 1 - how.offline_share)])
    warm_up = -(-cfg.warm_up // rows)
    own = int(seeds(seed, 1, key=_EXPERIENCE))
    experience = Collector(RescaleAction(environment, agent.range), agent.actor, online, own, warm_up)
    change = partial(random_shift, pad=cfg.shift) if cfg.shift else (lambda rollout: rollout)
    return ReplayFeed(
        CollectionSchedule(experience, warm_up, rows * how.updates, tell),
        memory,
        cfg.batch,
        how.n_step,
        how.gamma,
        change,
    )


def recorded(episodes: list[Mapping[str, np.ndarray]], range: ActionRange, seed: int) -> Buffer:
    """A buffer of recorded episodes, their actions in units of the range."""
    buffer = Buffer(sum(len(episode["action"]) for episode in episodes), 2 * seed + 1)
    into(buffer, ({**episode, "action": range.to_unit(episode["action"])} for episode in episodes))
    return buffer


def _rounded(loss: Objective, low: bool) -> Objective:
    """The loss with its networks' products in bfloat16, if ``low``."""

    def rounded(rollout: Rollout) -> Loss:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(rollout)

    return rounded if low else loss


def _slow_actor(agent: Agent) -> DeterministicActor:
    return DeterministicActor(agent.actor.encoder, agent.slow.net, agent.actor.shared)
