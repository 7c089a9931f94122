"""Which container holds what, v1."""
