"""ResFiT."""
