"""The scheduler's figures beside their targets, see `__main__`."""
