"""Recurrent state-space models."""
