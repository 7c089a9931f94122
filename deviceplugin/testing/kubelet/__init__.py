"""An embedded kubelet: kubelet's device manager toward real plugins over real unix sockets.

It behaves as kubelet-deviceplugin.md sections 1 and 2 describe, in kubelet's order and with its
texts, and is stricter where kubelet is lenient: what kubelet would swallow is recorded as a
*finding*.
"""

from deviceplugin.testing.kubelet.checkpoint import Entry
from deviceplugin.testing.kubelet.kubelet import EmbeddedKubelet, embedded_kubelet
from deviceplugin.testing.kubelet.pods import (
    Admitted,
    Container,
    ContainerConfig,
    Failed,
    Pod,
    StartError,
)

__all__ = [
    "Admitted",
    "Container",
    "ContainerConfig",
    "EmbeddedKubelet",
    "Entry",
    "Failed",
    "Pod",
    "StartError",
    "embedded_kubelet",
]
