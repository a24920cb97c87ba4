"""Teaching a network to place sketches near their photos: one stage of a run."""

from __future__ import annotations

import torch

from saccade.models.retrieval import Embedder
from saccade.objectives.relational import Matching, examples
from saccade.tasks.choosing import fixed
from saccade.tasks.retrieving import RetrievalTask
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Update, Updates, rise_and_fall
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.sketches import Pairs


def embedding(
    task: RetrievalTask, network: Embedder, loss: Matching, pairs: Pairs, stage: Run, steps: int, lr: float, batch: int, seed: int
) -> None:
    """Train ``network`` by ``loss`` on ``batch`` pairs a step; it is scored at the end, on the canvases of the loss.

    The learning rate of AdamW is ``lr`` at most and falls to a twentieth.
    """
    weights, kept_back = list(network.parameters()), task.kept_back()
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    run_loop(
        OnPolicy(pairs.problems(), lambda problems, seeds_P, step: examples(problems), batch, seed),
        Updates([Update("embedding", loss, weights, optimizer, schedule=rise_and_fall(steps, steps // 20, 0.05))]),
        stage,
        steps,
        state={"network": network},
        evaluate=lambda step: fixed(task.search(network, kept_back, loss.canvases)) if kept_back else {},
        evaluate_every=steps,
        save_every=max(steps // 4, 1),
        log_every=10,
    )
