"""Adapters to diffusers: pipelines as networks that predict a velocity."""
