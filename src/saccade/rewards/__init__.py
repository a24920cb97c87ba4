"""Rewards: Rollout -> Tensor; what a world cannot judge is NaN."""
