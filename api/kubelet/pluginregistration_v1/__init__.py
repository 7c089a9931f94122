"""Plugins found in a watched directory, v1."""
