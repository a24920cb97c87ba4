"""Ways to lay out attempts: who tries what, and which attempts are compared."""
