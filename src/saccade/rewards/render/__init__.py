"""Rewards on the rendered pictures of programs."""
