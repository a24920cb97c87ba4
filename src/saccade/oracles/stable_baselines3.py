"""stable-baselines3's PPO, SAC and TD3 on our environments, with our settings, scored by our test episodes. Its runs
cannot be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from saccade.algorithms.off_policy import Replaying, TrainSchedule
from saccade.algorithms.ppo import PPO
from saccade.core import Action, Environment, seeds
from saccade.envs.task import ControlTask
from saccade.models.control.networks import ACTIVATIONS
from saccade.policies.actor_critic import ActorCriticModel
from saccade.training.run import Run
from saccade.training.settings import AdamW


def train_off_policy(
    name: str, task: ControlTask, cfg: Replaying, course: TrainSchedule, seed: int, run: Run
) -> dict[str, dict[str, float]]:
    """Train its ``name`` ("SAC" or "TD3") for so many steps in the environment. The scores of test episodes before
    and after.
    """
    oracle = off_policy_of(name, task, cfg, course.rows, seed)
    before = after = task.score(Oracle(oracle))
    run.log(0, {f"eval/{k}": v for k, v in before.items()})
    done = 0
    while done < course.env_steps:
        taken = min(course.evaluate_every + (cfg.warm_up if not done else 0), course.env_steps - done)
        oracle.learn(taken, reset_num_timesteps=not done)
        done += taken
        after = task.score(Oracle(oracle))
        run.log((done - cfg.warm_up) * cfg.how.updates, {f"eval/{k}": v for k, v in after.items()})
    return {"before": before, "after": after}


def off_policy_of(name: str, task: ControlTask, cfg: Replaying, rows: int, seed: int) -> Any:
    """Its learner with the same networks and settings. ValueError for what it has not got."""
    sb3, how = required(), cfg.how
    if how.critics != 2 or how.critic_norm or how.n_step != 1 or how.offline_share or cfg.precision != "float32":
        raise ValueError(
            "method 'sb3' has two critics without LayerNorm, one-step returns, no recorded data and float32"
        )
    world = task.make(rows)
    width = world.action_space.shape[0]
    more: dict[str, Any] = {"target_entropy": how.target_entropy * width}
    if name == "TD3":
        from stable_baselines3.common.noise import NormalActionNoise

        more = {
            "policy_delay": how.actor_every,
            "target_policy_noise": how.smoothing,
            "target_noise_clip": how.smoothing_clip,
        }
        more["action_noise"] = NormalActionNoise(np.zeros(width), np.full(width, cfg.exploration))
    return getattr(sb3, name)(
        "MlpPolicy", rows_of(world, seed), learning_rate=cfg.lr, buffer_size=cfg.memory, learning_starts=cfg.warm_up,
        batch_size=cfg.batch, tau=how.tau, gamma=how.gamma, train_freq=1, gradient_steps=rows * how.updates,
        policy_kwargs={"net_arch": list(cfg.hidden)}, seed=seed, device="cpu", **more,
    )  # fmt: skip


def required() -> Any:
    """The package. ValueError with one line if it is not installed."""
    try:
        import stable_baselines3
    except ImportError:
        raise ValueError("method 'sb3' needs a development package: pip install stable-baselines3") from None
    return stable_baselines3


def train_ppo(
    task: ControlTask, model: ActorCriticModel, ppo: PPO, optim: AdamW, rows: int, steps: int, seed: int, run: Run
) -> dict[str, dict[str, float]]:
    """Train its PPO for ``steps`` segments of ``rows`` rows. The scores of our test episodes before and after."""
    oracle = ppo_of(task.make(rows), model, ppo, optim, seed)
    before = task.score(Oracle(oracle))
    run.log(0, {f"eval/{name}": value for name, value in before.items()})
    oracle.learn(rows * ppo.n_steps * steps)
    after = task.score(Oracle(oracle), run.show(steps))
    run.log(steps, {f"eval/{name}": value for name, value in after.items()})
    return {"before": before, "after": after}


def ppo_of(environment: Environment, model: ActorCriticModel, ppo: PPO, optim: AdamW, seed: int) -> Any:
    """Its PPO with the same networks and settings. ValueError for what it has not got."""
    sb3 = required()
    if model.normalize_observations or ppo.normalize_rewards or model.convolutions != "nature":
        raise ValueError("method 'sb3' has the convolutions 'nature', and normalizes neither observations nor rewards")
    picture = len(next(iter(environment.observation_space.values())).shape) == 3
    sizes: dict[str, Any] = {"net_arch": list(model.hidden), "log_std_init": model.log_std}
    sizes["activation_fn"] = ACTIVATIONS[model.activation]
    if picture:
        sizes["features_extractor_kwargs"] = {"features_dim": model.picture_features}
    rate = (lambda left: optim.lr * left) if ppo.anneal_lr else optim.lr
    return sb3.PPO(
        "CnnPolicy" if picture else "MlpPolicy", rows_of(environment, seed), policy_kwargs=sizes, learning_rate=rate,
        n_steps=ppo.n_steps, batch_size=ppo.batch_size, n_epochs=ppo.n_epochs, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range, clip_range_vf=ppo.clip_range_vf, ent_coef=ppo.entropy_coef, vf_coef=ppo.value_coef,
        max_grad_norm=optim.max_grad_norm, seed=seed, device="cpu",
    )  # fmt: skip


class Oracle:
    """Its policy as one that `envs.rollout.whole` can ask; it acts greedily, and its values are not told."""

    def __init__(self, model: Any):
        self.model = model

    def act(self, seen: Mapping[str, torch.Tensor], draw_BD: torch.Tensor | None) -> Action:
        (only,) = seen.values()
        action, _ = self.model.predict(only.numpy(), deterministic=draw_BD is None)
        return Action(torch.as_tensor(action), torch.zeros(len(action)), torch.zeros(len(action)))

    def value(self, seen: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.zeros(len(next(iter(seen.values()))))


def rows_of(environment: Environment, seed: int) -> Any:
    """Our environment as its VecEnv: ended rows begin again at once, with the same seeds as `RolloutCollector` gives them."""
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
            seen, done = np.array(told.observation[name]), told.terminated_B | told.truncated_B
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
