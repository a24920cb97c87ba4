"""Image editors."""
