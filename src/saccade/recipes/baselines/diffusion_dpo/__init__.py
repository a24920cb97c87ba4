"""Diffusion-DPO."""
