"""How qwen2.5-vl-shapes was made."""
