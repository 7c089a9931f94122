"""Loads NVML: the driver's library by path, then NVIDIA's Python binding, which finds it by name.

Only the probe does this. Source of the search: hami-nvidia-node.md 1.4.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deviceplugin.vendor import DriverError
from deviceplugin.vendors.nvidia.host import resolved_below

NAME = "libnvidia-ml.so.1"
DIRECTORIES = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/wsl/lib",
)

_REMEDY = (
    "install the driver on the node, or mount its root and name it "
    "(--container-driver-root, --nvidia-driver-root)"
)


def find(root: Path) -> Path | None:
    """The library's real file below a driver root; None where the loader's own search is to
    decide: when the root is ``/`` or has none.
    """
    if root == Path("/"):
        return None
    candidates = (resolved_below(root, root / folder / NAME) for folder in DIRECTORIES)
    return next((path for path in candidates if path is not None), None)


class Library:
    """NVML in this process. The library, once loaded, stays until the process ends."""

    def __init__(self, root: Path, *, fail_on_init_error: bool = True) -> None:
        self._root = root
        self._fail_on_init_error = fail_on_init_error
        self._loaded: Path | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """The initialised binding (module ``pynvml``), released at the end; sessions may overlap.

        Raises `DriverError`, absent where there is no library or no driver. Raises `SystemExit`
        when the driver on disk is another one than the loaded library's: only a new process can
        load that.
        """
        nvml = self._binding()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise self._not_initialised(nvml, error) from None
        try:
            yield nvml
        finally:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _binding(self) -> Any:
        path = find(self._root)
        if path is not None and self._loaded is None:
            try:
                # Global symbols and the library's own name make the binding's lookup find it.
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise DriverError(f"{path} cannot be loaded: {error}; {_REMEDY}") from None
            self._loaded = path
        import pynvml

        return pynvml

    def _not_initialised(self, nvml: Any, error: Any) -> DriverError:
        if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return DriverError(
                f"{NAME} is neither below {self._root} nor where the loader looks; {_REMEDY}",
                absent=True,
            )
        if error.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            text = "nvmlInit: the kernel module is not loaded; load it (modprobe nvidia)"
            return DriverError(text, absent=True)
        mismatch = error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        if mismatch and self._loaded != find(self._root):
            raise SystemExit(f"the driver was replaced: {self._loaded} is no longer its library")
        remedy = "reboot the node or reload the kernel module" if mismatch else "see dmesg"
        return DriverError(f"nvmlInit: {error}; {remedy}", absent=not self._fail_on_init_error)
