"""SSL4RL."""
