"""Adapters to transformers' vision encoders."""
