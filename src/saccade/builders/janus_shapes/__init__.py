"""How janus-shapes was made."""
