"""One file a system; the file name is the registry."""
