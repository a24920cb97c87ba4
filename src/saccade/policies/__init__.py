"""Final classes that satisfy Policy."""
