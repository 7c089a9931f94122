"""The one place that states the version; packaging, --version and build info read it here."""

__version__ = "0.1.0"
