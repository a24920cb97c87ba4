"""Saccade: reinforcement learning of models that see and draw."""

__version__ = "0.1.0"
