"""A Kubernetes device-plugin framework with pluggable vendor backends."""

from deviceplugin.version import __version__

__all__ = ["__version__"]
