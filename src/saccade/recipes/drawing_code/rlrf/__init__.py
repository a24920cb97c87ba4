"""RLRF."""
