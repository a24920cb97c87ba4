"""stable-baselines3 as an oracle: its PPO on our environments, with our settings, scored by our test episodes.

It is a development extra; nothing else of the package needs it. Its runs cannot be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from saccade.core import Environment, seeds
from saccade.models.control import ACTIVATIONS
from saccade.policies.control import Acted, ActorCriticModel
from saccade.tasks.control import ControlTask
from saccade.tasks.proximal import Proximal
from saccade.training.run import Run


def required() -> Any:
    """The package. ValueError with one line if it is not installed."""
    try:
        import stable_baselines3
    except ImportError:
        raise ValueError("method 'sb3' needs a development package: pip install stable-baselines3") from None
    return stable_baselines3


def train(
    task: ControlTask, model: ActorCriticModel, ppo: Proximal, rows: int, steps: int, seed: int, run: Run
) -> dict[str, dict[str, float]]:
    """Train its PPO for ``steps`` segments of ``rows`` rows. The scores of our test episodes before and after."""
    oracle = built(task.make(rows), model, ppo, seed)
    before = task.score(Oracle(oracle))
    run.log(0, {f"eval/{name}": value for name, value in before.items()})
    oracle.learn(rows * ppo.length * steps)
    after = task.score(Oracle(oracle), run.show(steps))
    run.log(steps, {f"eval/{name}": value for name, value in after.items()})
    return {"before": before, "after": after}


def built(environment: Environment, model: ActorCriticModel, ppo: Proximal, seed: int) -> Any:
    """Its PPO with the same networks and settings. ValueError for what it has not got."""
    sb3 = required()
    if model.standardise or ppo.scale_rewards or model.convolutions != "nature":
        raise ValueError("method 'sb3' has the convolutions 'nature', and neither standardise nor scale_rewards")
    picture = len(next(iter(environment.observation_space.values())).shape) == 3
    sizes: dict[str, Any] = {"net_arch": list(model.hidden), "log_std_init": model.log_std}
    sizes["activation_fn"] = ACTIVATIONS[model.activation]
    if picture:
        sizes["features_extractor_kwargs"] = {"features_dim": model.features}
    rate = (lambda left: ppo.lr * left) if ppo.anneal else ppo.lr
    return sb3.PPO(
        "CnnPolicy" if picture else "MlpPolicy", rows_of(environment, seed), policy_kwargs=sizes, learning_rate=rate,
        n_steps=ppo.length, batch_size=ppo.minibatch, n_epochs=ppo.epochs, gamma=ppo.gamma, gae_lambda=ppo.lam, clip_range=ppo.clip,
        clip_range_vf=ppo.clip_value, ent_coef=ppo.entropy, vf_coef=ppo.value, max_grad_norm=ppo.max_norm, seed=seed, device="cpu",
    )  # fmt: skip


class Oracle:
    """Its policy as one that `sampling.episodes.whole` can ask; it acts greedily, and its values are not told."""

    def __init__(self, model: Any):
        self.model = model

    def act(self, seen: Mapping[str, torch.Tensor], draw_BD: torch.Tensor | None) -> Acted:
        (only,) = seen.values()
        action, _ = self.model.predict(only.numpy(), deterministic=draw_BD is None)
        return Acted(torch.as_tensor(action), torch.zeros(len(action)), torch.zeros(len(action)))

    def value(self, seen: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.zeros(len(next(iter(seen.values()))))


def rows_of(environment: Environment, seed: int) -> Any:
    """Our environment as its VecEnv: ended rows begin again at once, with the same seeds as `Segments` gives them."""
    from stable_baselines3.common.vec_env import VecEnv

    (name, space), *more = environment.observation_space.items()
    if more:
        raise ValueError(f"{environment.name} shows {name} and {len(more)} more; method 'sb3' sees one thing")

    class Rows(VecEnv):
        """The methods that its PPO calls."""

        def reset(self) -> np.ndarray:
            return self._begun(list(range(self.num_envs)))

        def _begun(self, rows: list[int]) -> np.ndarray:
            own = [int(seeds(seed, 1, key=self.begun + i)) for i in range(len(rows))]
            self.begun += len(rows)
            return environment.begin(rows, own)[name]

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
            told = environment.step(self.actions)
            seen, done = np.array(told.seen[name]), told.terminated_B | told.truncated_B
            infos: list[dict] = [{} for _ in done]
            for row in (rows := np.flatnonzero(done).tolist()):
                late = bool(told.truncated_B[row] and not told.terminated_B[row])
                infos[row] = {"terminal_observation": seen[row].copy(), "TimeLimit.truncated": late}
            if rows:
                seen[rows] = self._begun(rows)
            return seen, told.reward_B, done, infos

        def close(self) -> None: ...

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * self.num_envs

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    Rows.begun = 0
    return Rows(environment.count, space, environment.action_space)
