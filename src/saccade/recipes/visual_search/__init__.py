"""Models that look for what is too small to be seen at a first glance."""
