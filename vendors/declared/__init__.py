"""Vendors that a declaration describes: count, memory, cores, device nodes, variables."""

from deviceplugin.vendor import Vendor


def _declared(name: str, resource: str, presence: tuple[str, ...]) -> Vendor:
    return Vendor(
        name=name,
        node=f"deviceplugin.vendors.declared.node:{name}",
        resource=resource,
        presence=presence,
        scheduling=f"deviceplugin.vendors.declared.scheduling:{name}",
        profile=f"deviceplugin.vendors.declared:{name}.profile.yaml",
    )


CAMBRICON = _declared("cambricon", "cambricon.com/vmlu", ("dev/cambricon_dev[0-9]*",))
MTHREADS = _declared("mthreads", "mthreads.com/vgpu", ("dev/mtgpu.[0-9]*",))
ENFLAME = _declared("enflame", "enflame.com/gcu", ("dev/gcu[0-9]*",))
