"""Agents that drive or walk by what they see."""
