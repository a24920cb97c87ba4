"""Rewards of pictures that need no model of a recipe: OCR, sharpness, diversity."""
