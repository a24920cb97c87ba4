"""Models that write code which draws."""
