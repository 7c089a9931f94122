"""A Kubernetes API server for tests: real HTTP on loopback, strict about what a real one refuses.

`ApiServer` serves the collections of `resources.RESOURCES` to any client, the official one among
them. It stores, patches, lists and watches; it runs no controllers and admits what its rules let
through. Tests script schedulers and kubelets around it.
"""

from deviceplugin.testing.apiserver.server import ApiServer, Call
from deviceplugin.testing.apiserver.status import StatusError

__all__ = ["ApiServer", "Call", "StatusError"]
