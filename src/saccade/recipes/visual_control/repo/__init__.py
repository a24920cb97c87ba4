"""RePo."""
