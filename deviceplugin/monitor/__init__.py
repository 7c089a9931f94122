"""What containers use of their devices: metrics under HAMi's names, priorities between containers,
and sweeping of what is left over. Knows no vendor and no cluster; it is told who holds what.
"""

from deviceplugin.monitor.garbage import Swept
from deviceplugin.monitor.monitor import Monitor
from deviceplugin.monitor.usage import ContainerUsage, DeviceUsage, ProcessUsage, by_host_pid
from deviceplugin.monitor.values import (
    HostDevice,
    MonitoredContainer,
    MonitoredDevice,
    Settings,
)

__all__ = [
    "ContainerUsage",
    "DeviceUsage",
    "HostDevice",
    "Monitor",
    "MonitoredContainer",
    "MonitoredDevice",
    "ProcessUsage",
    "Settings",
    "Swept",
    "by_host_pid",
]
