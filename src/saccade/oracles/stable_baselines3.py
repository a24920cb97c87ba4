"""stable-baselines3's PPO, SAC and TD3 on our environments and test episodes, with our settings.

Its runs cannot be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from saccade.algorithms.off_policy import OffPolicy, OffPolicySettings
from saccade.algorithms.ppo import PPO
from saccade.core import Action, Environment, Run, mean_scores
from saccade.envs.task import ControlTask
from saccade.models.control.networks import ACTIVATIONS
from saccade.policies.actor_critic import ActorCriticModel
from saccade.random import stream
from saccade.training.settings import AdamW

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def train_off_policy(name: Literal["SAC", "TD3"], cfg: OffPolicySettings, run: Run) -> dict[str, dict[str, float]]:
    """Train its SAC or TD3. Returns the scores of our test episodes before and after."""
    task, schedule, algo = cfg.task, cfg.schedule, cfg.algo
    model = build_off_policy(name, algo, cfg.optim, task.make(schedule.n_envs), cfg.seed)
    before = after = mean_scores(task.score(SB3Policy(model)))
    run.log(0, {f"eval/{k}": v for k, v in before.items()})
    done = 0
    while done < schedule.steps:
        due = schedule.evaluate_every + (0 if done else algo.learning_starts)
        steps = min(due, schedule.steps - done)
        model.learn(steps, reset_num_timesteps=not done)
        done += steps
        after = mean_scores(task.score(SB3Policy(model)))
        run.log((done - algo.learning_starts) * algo.gradient_steps, {f"eval/{k}": v for k, v in after.items()})
    return {"before": before, "after": after}


def build_off_policy(name: str, algo: OffPolicy, optim: AdamW, environment: Environment, seed: int) -> Any:
    """Its learner with the same networks and settings. ValueError for settings that it does not have."""
    sb3 = import_package()
    if algo.n_critics != 2 or algo.layer_norm or algo.n_steps != 1 or algo.offline_fraction:
        raise ValueError(
            "implementation 'sb3' has two Q networks without LayerNorm, one-step returns and no demonstrations"
        )
    if algo.precision != "float32":
        raise ValueError("implementation 'sb3' computes in float32")
    width = environment.action_space.shape[0]
    if name == "TD3":
        from stable_baselines3.common.noise import NormalActionNoise

        special: dict[str, Any] = {
            "policy_delay": algo.policy_delay,
            "target_policy_noise": algo.target_policy_noise,
            "target_noise_clip": algo.target_noise_clip,
            "action_noise": NormalActionNoise(np.zeros(width), np.full(width, algo.action_noise)),
        }
    else:
        special = {"target_entropy": algo.target_entropy * width}
    return getattr(sb3, name)(
        "MlpPolicy",
        vector_environment(environment, seed),
        learning_rate=optim.lr,
        buffer_size=algo.buffer_size,
        learning_starts=algo.learning_starts,
        batch_size=algo.batch_size,
        tau=algo.tau,
        gamma=algo.gamma,
        train_freq=1,
        gradient_steps=environment.count * algo.gradient_steps,
        policy_kwargs={"net_arch": list(algo.hidden)},
        seed=seed,
        device="cpu",
        **special,
    )


def train_ppo(
    task: ControlTask, model: ActorCriticModel, ppo: PPO, optim: AdamW, n_envs: int, steps: int, seed: int, run: Run
) -> dict[str, dict[str, float]]:
    """Train its PPO on ``steps`` segments of ``n_envs`` rows. Returns the scores of our test episodes before, after."""
    oracle = build_ppo(task.make(n_envs), model, ppo, optim, seed)
    before = mean_scores(task.score(SB3Policy(oracle)))
    run.log(0, {f"eval/{name}": value for name, value in before.items()})
    oracle.learn(n_envs * ppo.n_steps * steps)
    after = mean_scores(task.score(SB3Policy(oracle), run.show(steps)))
    run.log(steps, {f"eval/{name}": value for name, value in after.items()})
    return {"before": before, "after": after}


def build_ppo(environment: Environment, model: ActorCriticModel, ppo: PPO, optim: AdamW, seed: int) -> Any:
    """Its PPO with the same networks and settings. ValueError for settings that it does not have."""
    sb3 = import_package()
    if model.normalize_observations or ppo.normalize_rewards or model.convolutions != "nature":
        raise ValueError(
            "implementation 'sb3' has the convolutions 'nature', and normalizes neither observations nor rewards"
        )
    picture = len(next(iter(environment.observation_space.values())).shape) == 3
    network: dict[str, Any] = {
        "net_arch": list(model.hidden),
        "log_std_init": model.log_std,
        "activation_fn": ACTIVATIONS[model.activation],
    }
    if picture:
        network["features_extractor_kwargs"] = {"features_dim": model.picture_features}
    return sb3.PPO(
        "CnnPolicy" if picture else "MlpPolicy",
        vector_environment(environment, seed),
        policy_kwargs=network,
        learning_rate=(lambda remaining: optim.lr * remaining) if ppo.anneal_lr else optim.lr,
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        clip_range_vf=ppo.clip_range_vf,
        ent_coef=ppo.entropy_coef,
        vf_coef=ppo.value_coef,
        max_grad_norm=optim.max_grad_norm,
        seed=seed,
        device="cpu",
    )


def import_package() -> Any:
    """The package stable_baselines3. ValueError of one line if it is not installed."""
    try:
        import stable_baselines3
    except ImportError:
        raise ValueError("implementation 'sb3' needs a development package: pip install stable-baselines3") from None
    return stable_baselines3


class SB3Policy:
    """A model of stable-baselines3 as an `ActingPolicy`; it acts greedily, its log-probabilities and values are 0."""

    def __init__(self, model: Any):
        self.model = model

    def act(self, observation: Mapping[str, Tensor], noise_BD: Tensor | None) -> Action:
        (only,) = observation.values()
        action, _ = self.model.predict(only.numpy(), deterministic=noise_BD is None)
        return Action(torch.as_tensor(action), torch.zeros(len(action)), torch.zeros(len(action)))


def vector_environment(environment: Environment, seed: int) -> VecEnv:
    """Our environment as a VecEnv: a row whose episode ended begins the next one, with `RolloutCollector`'s seeds.

    ValueError for an environment with several observations.
    """
    from stable_baselines3.common.vec_env import VecEnv

    (name, space), *more = environment.observation_space.items()
    if more:
        raise ValueError(
            f"{environment.name} has {1 + len(more)} observations; implementation 'sb3' needs a single one"
        )

    class Rows(VecEnv):
        """The methods of a VecEnv that PPO, SAC and TD3 call."""

        begun = 0

        def reset(self) -> np.ndarray:
            return self._begin(list(range(self.num_envs)))

        def _begin(self, rows: list[int]) -> np.ndarray:
            episode_seeds = [stream(seed, "episode", self.begun + i) for i in range(len(rows))]
            self.begun += len(rows)
            return environment.begin(rows, episode_seeds)[name]

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
            step = environment.step(self.actions)
            observation, done = np.array(step.observation[name]), step.terminated_B | step.truncated_B
            infos: list[dict] = [{} for _ in done]
            for row in (rows := np.flatnonzero(done).tolist()):
                truncated = bool(step.truncated_B[row] and not step.terminated_B[row])
                infos[row] = {"terminal_observation": observation[row].copy(), "TimeLimit.truncated": truncated}
            if rows:
                observation[rows] = self._begin(rows)
            return observation, step.reward_B, done, infos

        def close(self) -> None: ...

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * self.num_envs

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Rows(environment.count, space, environment.action_space)
