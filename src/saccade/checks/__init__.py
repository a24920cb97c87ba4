"""Checks: a recipe's arms over several seeds at equal budget, and whether its claims hold."""
