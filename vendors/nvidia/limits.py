"""What holds of limits whoever keeps them, libvgpu or MPS. Pure."""

from __future__ import annotations

from deviceplugin.vendor import Grant, Owner


def memory(grant: Grant) -> int | None:
    """The MiB that a grant is limited to; None for a whole device whose memory nobody knows.

    Raises `ValueError` for a share that no limit expresses.
    """
    uuid = grant.device.uuid
    if grant.memory_mib is None:
        if grant.shares < grant.of:
            raise ValueError(
                f"{uuid} has no memory figure, so {grant.shares} of {grant.of} shares cannot be "
                "limited: set nvidia.preConfiguredDeviceMemory (MiB), or isolation: none"
            )
    elif grant.memory_mib <= 0:
        raise ValueError(
            f"a share of {uuid} is less than 1 MiB, which would be taken for no limit: lower "
            "nvidia.deviceSplitCount"
        )
    return grant.memory_mib


def check_variables(owner: Owner, ours: tuple[str, ...]) -> None:
    """Variables that set limits are nobody's but ours; `ours` is how their names begin.

    Raises `ValueError` where the container has its own.
    """
    if set_by_pod := sorted(name for name in owner.environment if name.startswith(ours)):
        raise ValueError(
            f"container {owner.container} of pod {owner.pod_namespace}/{owner.pod_name} sets "
            f"{', '.join(set_by_pod)}, which limits devices: remove it from the pod, and ask for "
            f"less by the resources beside {owner.resource}"
        )
