"""What the papers compare against, and the base algorithms that they change."""
