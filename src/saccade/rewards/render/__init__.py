"""Rewards of programs by what they draw."""
