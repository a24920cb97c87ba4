"""SketchyNet."""
