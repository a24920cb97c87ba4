"""NP-Edit."""
