"""An embedded kubelet: kubelet's device manager toward real plugins over real unix sockets.

It behaves as kubelet-deviceplugin.md sections 1 and 2 describe, in kubelet's order and with its
texts, and is stricter where kubelet is lenient: what kubelet would swallow is recorded as a
*finding*.
"""

from deviceplugin.testing.kubelet.allocation import AllocationError
from deviceplugin.testing.kubelet.checkpoint import Checkpoint, CorruptCheckpointError, Entry
from deviceplugin.testing.kubelet.environment import Call, Faults, Timeouts
from deviceplugin.testing.kubelet.findings import Finding
from deviceplugin.testing.kubelet.kubelet import EmbeddedKubelet, embedded_kubelet
from deviceplugin.testing.kubelet.ledger import Record
from deviceplugin.testing.kubelet.plugin import PluginError
from deviceplugin.testing.kubelet.pods import (
    Admitted,
    Container,
    ContainerConfig,
    Failed,
    Pod,
    PodStatus,
    StartError,
)

__all__ = [
    "Admitted",
    "AllocationError",
    "Call",
    "Checkpoint",
    "Container",
    "ContainerConfig",
    "CorruptCheckpointError",
    "EmbeddedKubelet",
    "Entry",
    "Failed",
    "Faults",
    "Finding",
    "PluginError",
    "Pod",
    "PodStatus",
    "Record",
    "StartError",
    "Timeouts",
    "embedded_kubelet",
]
