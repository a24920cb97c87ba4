"""Rewards of pictures that need no trained model of their own."""
