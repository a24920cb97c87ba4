"""Visual search: models that zoom in on what is too small in a reduced view."""
