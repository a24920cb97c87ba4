"""Policies that act in worlds they see: robots, games, simulators."""
