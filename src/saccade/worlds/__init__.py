"""Worlds: problems with exact judges, and the tasks made of them."""
