"""Actor-critic learning from a replay buffer, one family: SAC, TD3, REDQ and RLPD are settings of `OffPolicy`.

    y       = r + gamma^n (min_{k in subset} Q'_k(s', a') - [entropy in backup] alpha log pi(a' | s'))
    L_Q     = 1/2 sum_k (Q_k(s, a) - y)^2
    L_pi    = alpha log pi(a | s) - reduce_k Q_k(s, a)        a reparameterized; alpha and Q constant
    L_alpha = -log alpha (log pi(a | s) + H)                  H the target entropy; RLPD has alpha for log alpha

SAC 1812.05905, TD3 1802.09477 (a' is the deterministic action with clipped noise), REDQ 2101.05982, RLPD 2302.02948.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade import random
from saccade.algorithms.acceleration import off_policy_learner
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.replay import CollectionSchedule, ReplayFeed, random_shift
from saccade.config import Count, Fraction, Signed
from saccade.core import Action, Environment, Learner, Loss, Objective, Rollout, Run, Stateful
from saccade.envs.collector import Collector
from saccade.envs.episodes import Episode
from saccade.envs.recordings import add_episodes
from saccade.envs.rescale import ActionRange, RescaleAction
from saccade.envs.task import PENDULUM, ControlTask, log_returns
from saccade.models.control.critics import Critics, Target
from saccade.models.control.networks import MLP, Encoder
from saccade.policies.actors import Actor, Deterministic, ReparameterizedActor, SquashedGaussian
from saccade.training.buffers import Buffer, Mixture
from saccade.training.learner import Updates
from saccade.training.loop import fit
from saccade.training.settings import AdamW, EnvSchedule, Flat

ADAM = AdamW(lr=3e-4, max_grad_norm=float("inf"), fused=True)
"""The optimizer of actors, critics and temperature."""


@dataclass(frozen=True)
class OffPolicy:
    """Off-policy actor-critic learning from a replay buffer; the defaults are SAC's."""

    stochastic: bool = True
    """Sample actions from a squashed Gaussian with a learned temperature (SAC), or act deterministically (TD3)."""
    n_critics: Count = 2
    """Number of Q networks."""
    target_critics: Count = 2
    """Number of Q networks, random ones for each batch, whose smallest value is the target; n_critics takes all."""
    actor_value: Literal["min", "mean", "first"] = "min"
    """Q value that the actor maximizes: the minimum or the mean over the Q networks, or that of the first one."""
    layer_norm: bool = False
    """Use LayerNorm in the Q networks."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and Q networks."""
    convolutions: Literal["nature", "small"] = "small"
    """Convolutions for pictures, trained by the Q networks alone: nature for 84 pixels, small for 20 to 64."""
    entropy_in_backup: bool = True
    """Include the entropy of a stochastic actor's next action in the target."""
    target_entropy: Signed = -1.0
    """Entropy per dimension of the action at which the temperature holds a stochastic actor."""
    initial_temperature: float = 1.0
    """Weight of a stochastic actor's entropy at first; it changes slowly, so few steps or small returns need less."""
    temperature_gradient: Literal["log", "value"] = "log"
    """Gradient of the log-temperature: the excess of entropy itself (log: SAC's implementations), or the excess times
    the temperature, that of the loss in the temperature (value: RLPD).
    """
    target_policy_noise: float = 0.0
    """Standard deviation of the noise on the next action in the target (TD3)."""
    target_noise_clip: float = 0.5
    """Largest absolute value of the noise on the next action in the target."""
    action_noise: float = 0.1
    """Standard deviation of the noise with which a deterministic actor explores."""
    gamma: Fraction = 0.99
    """Discount factor."""
    n_steps: Count = 1
    """Number of rewards in the target before the value of the next observation."""
    tau: Fraction = 0.005
    """Fraction by which target networks move towards their networks at each update."""
    gradient_steps: Count = 1
    """Updates of the Q networks for each environment step."""
    policy_delay: Count = 1
    """Updates of the Q networks for each update of the actor."""
    target_update_interval: Count = 1
    """Updates of the Q networks for each update of their target networks; TD3's are those of its delayed actor."""
    buffer_size: Count = 1_000_000
    """Number of transitions in the replay buffer."""
    learning_starts: int = 100
    """Environment steps with random actions before the first update."""
    batch_size: Count = 256
    """Number of transitions in a batch."""
    offline_fraction: Fraction = 0.0
    """Fraction of a batch that is drawn from demonstrations."""
    image_shift: int = 0
    """Largest random shift of the pictures of a batch in pixels; 0 does not shift."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products in updates; bfloat16 keeps the weights in float32."""

    def build(self, environment: Environment, seed: int) -> Agent:
        """Networks for an environment's observations and actions, their weights from the seed.

        ValueError for actions that are not a vector with bounds.
        """
        box = environment.action_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not box.is_bounded():
            raise ValueError(f"{environment.name}: actions are {box}; off-policy learning needs a vector with bounds")
        actions = box.shape[0]
        with random.initialized(seed, "actor and critics"):
            encoder = Encoder(environment.observation_space, convolutions=self.convolutions)
            critics = Critics(encoder, encoder.size, actions, self.n_critics, self.hidden, self.layer_norm)
            outputs = 2 * actions if self.stochastic else actions
            trunk = MLP((encoder.size, *self.hidden, outputs), "relu", gain=0.01)
        action_range = ActionRange(tuple(box.low.tolist()), tuple(box.high.tolist()))
        target = Target(critics, self.tau)
        if self.stochastic:
            temperature = LagrangeMultiplier(self.initial_temperature, self.temperature_gradient)
            actor = Actor(encoder, trunk, SquashedGaussian(), shared=True)
            return Agent(actor, critics, target, action_range, temperature=temperature)
        actor = Actor(encoder, trunk, Deterministic(self.action_noise), shared=True)
        return Agent(actor, critics, target, action_range, target_trunk=Target(trunk, self.tau))

    def learner(self, agent: Agent, optim: AdamW) -> Learner:
        """Updates of the Q networks, then of actor and temperature, each followed by those of their target networks.

        The gradients are hand-written where `acceleration` has them.
        """
        if learner := off_policy_learner(agent, self, optim):
            return learner
        critics = optim.update(
            "critic",
            self.autocast(CriticLoss(agent.target_actor, agent.critics, agent.target.net, self, agent.temperature)),
            list(agent.critics.parameters()),
            after=_soft_update(agent.target, self.target_update_interval),
        )
        actor = optim.update(
            "actor",
            self.autocast(ActorLoss(agent.actor, agent.critics, self, agent.temperature)),
            [*agent.actor.trained, *(agent.temperature.parameters() if agent.temperature is not None else ())],
            every=self.policy_delay,
            after=_soft_update(agent.target_trunk) if agent.target_trunk is not None else None,
        )
        return Updates([critics, actor])

    def feed(
        self,
        environment: Environment,
        agent: Agent,
        seed: int,
        log: Callable[[int, Sequence[Episode]], None] = lambda step, episodes: None,
        demonstrations: Buffer | None = None,
    ) -> ReplayFeed:
        """Batches of the agent's transitions in the environment and, for ``offline_fraction``, of demonstrations.

        ValueError for a fraction without demonstrations, or demonstrations without a fraction.
        """
        rows, collected = environment.count, Buffer(self.buffer_size, seed)
        random_steps = -(-self.learning_starts // rows)
        rescaled = RescaleAction(environment, agent.action_range)
        collector = Collector(rescaled, agent.actor, collected, seed, random_steps)
        return self.replay(CollectionSchedule(collector, random_steps, rows * self.gradient_steps, log), demonstrations)

    def replay(self, collection: CollectionSchedule, demonstrations: Buffer | None, first: int = 0) -> ReplayFeed:
        """Batches from the buffer that ``collection`` fills, mixed with demonstrations; see `feed` and `ReplayFeed`."""
        if (demonstrations is None) != (self.offline_fraction == 0):
            having = "no" if demonstrations is None else "some"
            raise ValueError(f"offline_fraction {self.offline_fraction} does not go with {having} demonstrations")
        buffer = collected = collection.collector.buffer
        if demonstrations is not None:
            buffer = Mixture([(demonstrations, self.offline_fraction), (collected, 1 - self.offline_fraction)])
        transform = partial(random_shift, pad=self.image_shift) if self.image_shift else (lambda rollout: rollout)
        return ReplayFeed(collection, buffer, self.batch_size, self.n_steps, self.gamma, transform, first)

    def autocast(self, loss: Objective) -> Objective:
        """The loss with its matrix products in the chosen precision."""
        if self.precision == "float32":
            return loss

        def autocast_loss(rollout: Rollout) -> Loss:
            with torch.autocast("cpu", torch.bfloat16):
                return loss(rollout)

        return autocast_loss


MILLION_STEPS = EnvSchedule(steps=1_000_000, evaluate_every=50_000, save_every=50_000, log_every=2000)


@dataclass(frozen=True)
class OffPolicySettings:
    """What recipes of one algorithm of the family have in common; the defaults are SAC's, and swing a pendulum up."""

    schedule: Flat[EnvSchedule] = EnvSchedule()
    task: ControlTask = PENDULUM
    seed: int = 0
    """Seed of episodes, actions, initial weights and batches."""
    algo: OffPolicy = OffPolicy(buffer_size=100_000)
    optim: AdamW = ADAM
    implementation: Literal["saccade", "sb3"] = "saccade"
    """Implementation that trains: saccade, or stable-baselines3 (sb3) where it is installed."""


def policies(cfg: OffPolicySettings) -> dict[str, RescaledActor]:
    """The actor. ValueError for an environment in which it cannot act."""
    return {"policy": cfg.algo.build(cfg.task.make(1), cfg.seed).policy}


def train(cfg: OffPolicySettings, run: Run) -> dict[str, dict[str, float]]:
    """Act, store, learn, evaluate, save. Returns the scores of test episodes before and after."""
    return train_agent(cfg.algo.build(cfg.task.make(1), cfg.seed), cfg, run)


def train_agent(
    agent: Agent, cfg: TrainingSettings, run: Run, demonstrations: Buffer | None = None
) -> dict[str, dict[str, float]]:
    """Train an agent, with demonstrations in its batches if there are any; see `train`."""
    environment = cfg.task.make(cfg.schedule.n_envs)
    return fit(
        cfg.algo.feed(environment, agent, cfg.seed, log_returns(run), demonstrations),
        cfg.algo.learner(agent, cfg.optim),
        run,
        cfg.schedule.gradient_schedule(cfg.algo.learning_starts, cfg.algo.gradient_steps),
        state=agent.state(),
        evaluate=lambda step: cfg.task.score(agent.policy, run.show(step)),
    )


class TrainingSettings(Protocol):
    """The settings that `train_agent` needs."""

    @property
    def schedule(self) -> EnvSchedule: ...

    @property
    def task(self) -> ControlTask: ...

    @property
    def seed(self) -> int: ...

    @property
    def algo(self) -> OffPolicy: ...

    @property
    def optim(self) -> AdamW: ...


@dataclass(eq=False)
class Agent:
    """The networks of a run."""

    actor: Actor
    critics: Critics
    target: Target
    """Target network of the Q networks."""
    action_range: ActionRange
    """Range of the environment's actions."""
    temperature: LagrangeMultiplier | None = None
    """Temperature of a stochastic actor."""
    target_trunk: Target | None = None
    """Target network of a deterministic actor's trunk."""

    @property
    def policy(self) -> RescaledActor:
        """The actor with actions in the environment's range."""
        return RescaledActor(self.actor, self.action_range)

    @property
    def target_actor(self) -> Actor:
        """The actor of next actions in the target: a deterministic actor's target network, else the actor."""
        if self.target_trunk is None:
            return self.actor
        return Actor(self.actor.encoder, self.target_trunk.net, self.actor.head, self.actor.shared)

    def state(self) -> dict[str, Stateful]:
        """The parts that a checkpoint holds, by name."""
        optional = {"temperature": self.temperature, "target_trunk": self.target_trunk}
        parts: dict[str, Stateful] = {"policy": self.policy, "critics": self.critics, "target": self.target}
        return parts | {name: part for name, part in optional.items() if part is not None}


class RescaledActor:
    """An actor whose actions are mapped from [-1, 1] to a range."""

    def __init__(self, actor: Actor, action_range: ActionRange):
        self.actor, self.action_range = actor, action_range

    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        action = self.actor.act(observation, noise_BA)
        return action._replace(action_B=torch.from_numpy(self.action_range.unscale_action(action.action_B.numpy())))

    def state_dict(self) -> Mapping[str, Any]:
        return self.actor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.actor.load_state_dict(state)

    def export(self, folder: Path) -> None:
        self.actor.export(folder)


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda value_NB: value_NB.amin(0) if len(value_NB) != 2 else torch.minimum(value_NB[0], value_NB[1]),
    "mean": lambda value_NB: value_NB.mean(0),
    "first": lambda value_NB: value_NB[0],
}


@dataclass(frozen=True, eq=False)
class CriticLoss:
    """L_Q on transitions as `Buffer.sample` returns them, with target networks ``target``; no temperature: alpha = 0.

    The random subset of target networks follows from the seed of the first row, so with a subset a batch must not be
    split into micro-batches.
    """

    actor: ReparameterizedActor
    critics: Critics
    target: nn.Module
    algo: OffPolicy
    temperature: LagrangeMultiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        target_B = self.backup(rollout)
        value_NB = self.critics(observations(rollout), action(rollout))
        error_NB = value_NB - target_B
        metrics = {"value": value_NB.detach().mean(0).sum(), "target": target_B.sum()}
        return Loss(0.5 * error_NB.square().sum(), _count(rollout, target_B), metrics)

    @torch.no_grad()
    def backup(self, rollout: Rollout) -> Tensor:
        """The target y ``[B]``."""
        next_observation, noise_BA = observations(rollout, "next_observation"), action_noise(rollout)[1]
        action_BA, logp_B = self.actor.rsample(next_observation, noise_BA)
        if self.algo.target_policy_noise:
            clip = self.algo.target_noise_clip
            action_BA = (action_BA + (self.algo.target_policy_noise * noise_BA).clamp(-clip, clip)).clamp(-1, 1)
        value_B = REDUCTIONS["min"](self.target(next_observation, action_BA, target_members(rollout, self.algo)))
        if self.temperature is not None and self.algo.entropy_in_backup:
            value_B = value_B - self.temperature.value * logp_B
        return rollout.rewards["reward"] + rollout.extras["discount_B"] * value_B


@dataclass(frozen=True, eq=False)
class ActorLoss:
    """L_pi and, with a temperature, L_alpha of the same actions; neither has a gradient in the other's weights.

    The critics are held constant by the `Update` with this loss, whose weights are those of actor and temperature.
    """

    actor: ReparameterizedActor
    critics: Critics
    algo: OffPolicy
    temperature: LagrangeMultiplier | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        observation, noise_BA = observations(rollout), action_noise(rollout)[0]
        action_BA, logp_B = self.actor.rsample(observation, noise_BA)
        value_B = REDUCTIONS[self.algo.actor_value](self.critics(observation, action_BA))
        count = _count(rollout, value_B)
        if self.temperature is None:
            return Loss(-value_B.sum(), count)
        alpha = self.temperature.value.detach()
        excess_B = logp_B + self.algo.target_entropy * noise_BA.shape[-1]
        total = (alpha * logp_B - value_B).sum() + self.temperature.loss(excess_B).sum()
        return Loss(total, count, {"entropy": -logp_B.detach().sum(), "temperature": alpha * count})


def observations(
    rollout: Rollout, key: Literal["observation", "next_observation"] = "observation"
) -> dict[str, Tensor]:
    """Observations at the transitions of a batch, or those after them, by name: ``[B, ...]``."""
    start = f"{key}."
    return {k.removeprefix(start).removesuffix("_B"): v for k, v in rollout.decisions.items() if k.startswith(start)}


def action(rollout: Rollout) -> Tensor:
    """The actions of the transitions: ``[B, A]``."""
    return rollout.decisions["action_BT"][:, 0]


def action_noise(rollout: Rollout) -> Tensor:
    """Standard normal noise of present actions and of next ones: ``[2, B, A]``, each row's from its seed."""
    like = action(rollout)
    return random.normal(rollout.extras["seed_B"], (2, *like.shape[1:]), "actions").transpose(0, 1).to(like)


def target_members(rollout: Rollout, algo: OffPolicy) -> Tensor | None:
    """Indices ``[M]`` of the target networks whose minimum is the target, from the first row's seed; None for all."""
    if algo.target_critics >= algo.n_critics:
        return None
    order = random.uniform(rollout.extras["seed_B"][:1], (algo.n_critics,), "target members")[0].argsort()
    return order[: algo.target_critics]


def demonstration_buffer(episodes: Sequence[Mapping[str, np.ndarray]], action_range: ActionRange, seed: int) -> Buffer:
    """A buffer of recorded episodes, whose actions are mapped from the range to [-1, 1]."""
    buffer = Buffer(sum(len(episode["action"]) for episode in episodes), random.stream(seed, "demonstration buffer"))
    add_episodes(buffer, ({**episode, "action": action_range.scale_action(episode["action"])} for episode in episodes))
    return buffer


def _count(rollout: Rollout, like_B: Tensor) -> Tensor:
    return like_B.new_tensor(float(len(rollout)))


def _soft_update(target: Target, interval: int = 1) -> Callable[[int], None]:
    """What moves a target network after every ``interval``-th step of an optimizer."""
    return lambda steps: target.soft_update() if steps % interval == 0 else None
