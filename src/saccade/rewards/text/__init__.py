"""Rewards of texts: answers, their form, their length."""
