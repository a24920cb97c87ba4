"""BLIP-FusePPO."""
