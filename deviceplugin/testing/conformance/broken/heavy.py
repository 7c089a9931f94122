"""A scheduling half that loads what only the node half needs."""

import deviceplugin.testing.conformance.broken.nodes  # noqa: F401
from deviceplugin.testing.conformance.broken.halves import sound

__all__ = ["sound"]
