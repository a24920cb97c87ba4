"""The shared types and protocols: problems, rollouts, likelihoods, losses, policies, environments, runs.

Shape suffixes: B rows (samples), T stored decisions, P problems, G samples of one problem, D features.
The suffix of a key says which axes lead: ``x_BT`` is indexed by row and decision, ``latent_B`` by row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from saccade.naming import STANDARD_ERROR


@dataclass(frozen=True)
class Problem:
    """One thing to solve: a prompt, a picture with a question, a start state.

    ``inputs`` is what the policy may see, ``answer`` what only rewards may see, ``source`` the set it came from.
    """

    id: int
    inputs: Any
    answer: Any = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class Question:
    """What a model that sees is asked: a text and the pictures it is about, each uint8 ``[H, W, 3]`` of its own
    size.
    """

    text: str
    pictures: tuple[Any, ...] = ()


@dataclass
class Rollout:
    """B samples by one policy, each a row of T decisions.

    ``decisions`` are private to the policy that made them; keys that end in ``_BT`` can be cut by decision.
    ``outputs`` are what the world sees: pictures ``[B, 3, H, W]`` in [0, 1], texts, programs, episodes.
    ``mask_BT`` is the only way to say what is trained: 1 for the policy's own decisions, 0 for all else.
    ``group_B`` numbers the samples that are compared with one another, given when they are laid out.
    """

    problems: list[Problem]
    decisions: dict[str, Any]
    outputs: Any
    logp_BT: Tensor
    mask_BT: Tensor
    group_B: Tensor
    rewards: dict[str, Tensor] = field(default_factory=dict)
    advantage_BT: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.problems)
        for name in ("logp_BT", "mask_BT", "group_B"):
            value = getattr(self, name)
            if len(value) != rows:
                raise ValueError(f"{name} has {len(value)} rows, but there are {rows} problems")

    def __len__(self) -> int:
        return len(self.problems)

    def rows(self, index_B: Tensor) -> Rollout:
        """The samples at ``index_B`` (integers), in that order."""
        picked = index_B.tolist()
        index_B = index_B.cpu()  # an index on the CPU picks rows on any device
        return replace(
            self,
            problems=[self.problems[i] for i in picked],
            decisions=_take(self.decisions, index_B),
            outputs=_take_any(self.outputs, index_B),
            logp_BT=self.logp_BT[index_B],
            mask_BT=self.mask_BT[index_B],
            group_B=self.group_B[index_B],
            rewards=_take(self.rewards, index_B),
            advantage_BT=None if self.advantage_BT is None else self.advantage_BT[index_B],
            extras=_take(self.extras, index_B),
        )

    def columns(self, part: slice) -> Rollout:
        """The same samples with only the decisions in ``part``; whatever belongs to whole rows stays."""
        cut = lambda named: {k: v[:, part] if k.endswith("_BT") else v for k, v in named.items()}
        return replace(
            self,
            decisions=cut(self.decisions),
            logp_BT=self.logp_BT[:, part],
            mask_BT=self.mask_BT[:, part],
            advantage_BT=None if self.advantage_BT is None else self.advantage_BT[:, part],
            extras=cut(self.extras),
        )

    def on_one_device(self) -> Rollout:
        """The same rollout with all that a loss brings together where its log-probs are: mask, groups, rewards,
        advantages and extras. Rewards are computed on the CPU, decisions lie with the network that makes them.
        """
        place = self.logp_BT.device
        moved = lambda named: {k: v.to(place) if isinstance(v, Tensor) else v for k, v in named.items()}
        return replace(
            self,
            mask_BT=self.mask_BT.to(place),
            group_B=self.group_B.to(place),
            rewards=moved(self.rewards),
            advantage_BT=None if self.advantage_BT is None else self.advantage_BT.to(place),
            extras=moved(self.extras),
        )

    def broadcast(self, advantage_B: Tensor) -> Tensor:
        """Spread one advantage a row over all its decisions: [B] -> [B, T]."""
        return advantage_B[:, None].to(self.logp_BT.device).expand_as(self.logp_BT)


Batch = Rollout | Mapping[str, Rollout]
"""The batch of a training step: one rollout, or a record of several that share their groups (rewrite, then draw)."""


@dataclass
class Likelihood:
    """Stored decisions in the eyes of the present weights; gradients flow."""

    logp_BT: Tensor
    mean_BTD: Tensor | None = None
    std_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    value_BT: Tensor | None = None


@dataclass
class Loss:
    """A weighted sum and the weight it must be divided by: both add up over micro-batches and processes.

    The learner back-propagates ``total`` of every micro-batch and divides the gradient by the sum of ``count``,
    so a micro-batched step has exactly the gradient of the full batch. ``metrics`` are sums over the same weight.
    """

    total: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def mean(self) -> Tensor:
        """The loss as one number: ``total / count``."""
        return self.total / self.count.clamp(min=1e-12)


class LikelihoodPolicy(Protocol):
    """Can say how likely stored decisions are: all that a policy-gradient loss needs."""

    def likelihood(self, rollout: Rollout) -> Likelihood: ...


class Policy(LikelihoodPolicy, Protocol):
    """Makes decisions, and can say how likely its stored decisions are."""

    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout: ...


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: anything whose state can be read and put back."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class RolloutFeed(Stateful, Protocol):
    """Returns a rollout for each training step, and can be resumed."""

    def __call__(self, step: int, /) -> Rollout: ...


class Learner(Stateful, Protocol):
    """Turns a batch into better weights."""

    def update(self, batch: Any) -> dict[str, float]:
        """Train on a batch; returns its metrics. FloatingPointError where a loss or a gradient is not finite."""
        ...


ProblemScores = dict[str, float | Tensor]
"""Scores by name: a number, or one number for each held-out problem ``[P]`` (NaN: not judged) whose mean it is."""


def mean_scores(scores: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Each score as one number; beside each mean over two or more problems its standard error."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        if not isinstance(value, Tensor):
            found[name] = float(value)
            continue
        judged = value[~value.isnan()]
        found[name] = float(value.nanmean())
        if len(judged) > 1:
            found[f"{name}{STANDARD_ERROR}"] = float(judged.double().std() / len(judged) ** 0.5)
    return found


Sampler = Callable[[Sequence[Problem], Tensor], Rollout]
"""Problems and one seed for each -> samples, with their groups numbered."""

Reward = Callable[[Rollout], Tensor]
"""[B] or [B, T]; NaN means "cannot judge", never 0 for a failed judge."""


Objective = Callable[[Any], Loss]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""x, v, t, t' -> mean and standard deviation of the next state; time runs from noise t = 1 to data t = 0."""

Collect = Callable[[Sequence[Problem], Tensor, int], Batch]
"""Problems, a seed for each, the training step -> a batch with rewards and advantages."""

Observation = Mapping[str, np.ndarray]
"""What is seen, by name, each array ``[B, ...]``; a world with one unnamed observation calls it "state"."""


class Action(NamedTuple):
    """What a policy does in B episodes, on the CPU and without gradients.

    ``action_B`` is ``[B]`` for discrete actions and ``[B, A]`` for vectors, ``logp_B`` their log-probabilities ``[B]``
    (0 for a deterministic policy), ``value_B`` the value estimates of the states ``[B]``, None without a critic.
    """

    action_B: Tensor
    logp_B: Tensor
    value_B: Tensor | None = None


class ActingPolicy(Protocol):
    """A policy that acts in an environment."""

    def act(self, observation: Mapping[str, Tensor], noise_BD: Tensor | None, /) -> Action:
        """One action for each row of the observations ``[B, ...]``, given by name.

        ``noise_BD`` is standard normal ``[B, A]`` for a vector of A numbers and uniform ``[B, 1]`` for a discrete
        action; None asks for the greedy action.
        """
        ...


class ActorCriticPolicy(ActingPolicy, Protocol):
    """A policy that acts and estimates the values of states; its actions come with values."""

    def value(self, observation: Mapping[str, Tensor], /) -> Tensor:
        """Value estimate of each state: ``[B]``."""
        ...


class Step(NamedTuple):
    """Result of one action in each of B episodes.

    ``observation`` follows the action; at an end it is the episode's true last one, since the caller begins the next
    episode. ``info`` holds facts, each ``[B, ...]``, that no policy observes ("success").
    """

    observation: Observation
    reward_B: np.ndarray
    terminated_B: np.ndarray
    truncated_B: np.ndarray
    info: Mapping[str, np.ndarray]


class Environment(Protocol):
    """``count`` episodes side by side. An episode follows from its own seed and the actions taken in it, and from
    nothing else.
    """

    name: str
    count: int
    observation_space: Any
    """A gymnasium Dict space of what one episode shows, by name."""
    action_space: Any
    """A gymnasium Box or Discrete space of one episode's action."""

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation: ...

    def step(self, action_B: np.ndarray) -> Step: ...

    def render(self, rows: Sequence[int]) -> np.ndarray: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Interrupted(Exception):
    """The run was asked to stop and stopped after saving; the command ends with status 130."""


class RunFailed(Exception):
    """The run cannot continue; one line gives the reason and how to resume it."""


class Diverged(RunFailed):
    """The weights ran away, so that the same steps again would end the same way."""


class EnvironmentFailed(Exception):
    """An environment raised, hung, or returned what nobody can learn from; the message is one line that names it."""


class NothingJudged(Exception):
    """A reward could not judge any row; its own error is the cause."""


class BadProblem(ValueError):
    """Problems that no policy can try (a broken picture, a question without room), by their ``ids``; others can."""

    def __init__(self, message: str, ids: Iterable[int]):
        super().__init__(message)
        self.ids = frozenset(ids)


def _take(named: dict[str, Any], index_B: Tensor) -> dict[str, Any]:
    return {name: value[index_B] for name, value in named.items()}


def _take_any(values: Any, index_B: Tensor) -> Any:
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[index_B]
    return [values[i] for i in index_B.tolist()]


LogSamples = Callable[[str, Sequence[Mapping[str, Any]]], None]
"""A set's name and some of its samples, as `Run.samples` takes them."""


class Run(Protocol):
    """What a recipe and the training loop need of a run: it remembers. `training.run` keeps one in a folder.

    Of several processes all call the same methods; only the first writes.
    """

    folder: Path
    """Where the run keeps its files."""

    @property
    def stop(self) -> bool:
        """Whether the run was asked to stop: the loop then ends after its step, saves, and raises `Interrupted`."""
        ...

    def stage(self, name: str) -> Run:
        """A run inside this one, under ``name``, with the same signals, display and loggers."""
        ...

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line of metrics, under the number of steps done."""
        ...

    def problem_scores(self, step: int, scores: Mapping[str, Tensor]) -> None:
        """Keep the scores of single held-out problems, each ``[P]``, of the evaluation at this step."""
        ...

    def samples(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Log samples of the set ``name``: each a dict with a prompt and a picture, a clip or turns."""
        ...

    def show(self, step: int) -> LogSamples:
        """The function that logs samples under this step, for parts that know nothing of steps."""
        ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table under its title; the same title again replaces it."""
        ...

    def progress(self, step: int, steps: int | None) -> None:
        """Tell the display that ``step`` of ``steps`` steps are done."""
        ...

    def save(self, step: int, state: Mapping[str, Stateful]) -> Any:
        """Write a checkpoint after ``step`` steps; every process must call it."""
        ...

    def keep_checkpoints(self, due: Callable[[int], bool]) -> None:
        """Say after how many steps a checkpoint is due; any other one makes way for the next."""
        ...

    def load(self, state: Mapping[str, Stateful]) -> int:
        """Restore the newest whole checkpoint and return its step, 0 if there is none."""
        ...

    def keep_best(self, step: int, scores: Mapping[str, float], state: Mapping[str, Stateful]) -> bool:
        """Keep a checkpoint of the best scores so far; True if no better score is expected."""
        ...
