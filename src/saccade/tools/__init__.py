"""Tools: what a model may call, and what judges what it wrote."""
