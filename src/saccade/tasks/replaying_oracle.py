"""stable-baselines3 as an oracle of learning from memory: its SAC and TD3 on our environments, scored by our test episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from saccade.tasks.control import ControlTask
from saccade.tasks.replaying import Course, Replaying
from saccade.tasks.stable_baselines import Oracle, required, rows_of
from saccade.training.run import Run


def train(
    name: str, task: ControlTask, cfg: Replaying, course: Course, seed: int, run: Run
) -> dict[str, dict[str, float]]:
    """Train its ``name`` ("SAC" or "TD3") for so many steps in the environment. The scores of test episodes before and after."""
    oracle = built(name, task, cfg, course.rows, seed)
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


def built(name: str, task: ControlTask, cfg: Replaying, rows: int, seed: int) -> Any:
    """Its learner with the same networks and settings. ValueError for what it has not got."""
    sb3, how = required(), cfg.how
    if how.critics != 2 or how.critic_norm or how.n_step != 1 or how.offline_share or cfg.precision != "float32":
        raise ValueError("method 'sb3' has two critics without LayerNorm, one-step returns, no recorded data and float32")
    world = task.make(rows)
    width = world.action_space.shape[0]
    more: dict[str, Any] = {"target_entropy": how.target_entropy * width}
    if name == "TD3":
        from stable_baselines3.common.noise import NormalActionNoise

        more = {"policy_delay": how.actor_every, "target_policy_noise": how.smoothing, "target_noise_clip": how.smoothing_clip}
        more["action_noise"] = NormalActionNoise(np.zeros(width), np.full(width, cfg.exploration))
    return getattr(sb3, name)(
        "MlpPolicy", rows_of(world, seed), learning_rate=cfg.lr, buffer_size=cfg.memory, learning_starts=cfg.warm_up,
        batch_size=cfg.batch, tau=how.tau, gamma=how.gamma, train_freq=1, gradient_steps=rows * how.updates,
        policy_kwargs={"net_arch": list(cfg.hidden)}, seed=seed, device="cpu", **more,
    )  # fmt: skip
