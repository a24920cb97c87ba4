"""Models that reason about what they see."""
