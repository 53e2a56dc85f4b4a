"""A package within it."""
