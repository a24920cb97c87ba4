"""Backbones in their ordinary libraries, reached through one adapter file a library."""
