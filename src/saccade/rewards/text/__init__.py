"""Rewards on texts: answers, their format, their length."""
