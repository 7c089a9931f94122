"""Requests for devices in container annotations (cdi.md 4.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deviceplugin.cdi.errors import error
from deviceplugin.cdi.names import parse_qualified_name

PREFIX = "cdi.k8s.io/"
MAX_NAME = 63
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def annotation_key(plugin: str, device_id: str, *, prefix: str = PREFIX) -> str:
    """``<prefix><plugin>_<id>`` with every / of the id as _. Raises `CDIError`."""
    if not plugin or not device_id:
        raise error("an annotation key needs the name of a plugin and an id")
    name = f"{plugin}_{device_id.replace('/', '_')}"
    if len(name) > MAX_NAME:
        raise error(f"an annotation key's name has at most {MAX_NAME} characters", name)
    if not _NAME.fullmatch(name):
        raise error("an annotation key is letters, digits, - _ . between letters or digits", name)
    return prefix + name


def annotation_value(names: Sequence[str]) -> str:
    """Qualified names joined by commas. Raises `CDIError` for none and for one that is not."""
    if not names:
        raise error("an annotation needs the name of a device: an empty value fails the container")
    for name in names:
        parse_qualified_name(name)
    return ",".join(names)


def annotate(
    annotations: Mapping[str, str],
    plugin: str,
    device_id: str,
    names: Sequence[str],
    *,
    prefix: str = PREFIX,
) -> dict[str, str]:
    """The annotations with one more request. Raises `CDIError`, also for a key that is taken."""
    key = annotation_key(plugin, device_id, prefix=prefix)
    if key in annotations:
        raise error("the annotation is already there", key)
    return {**annotations, key: annotation_value(names)}


def parse_annotations(
    annotations: Mapping[str, str], *, prefix: str = PREFIX
) -> tuple[list[str], list[str]]:
    """Keys and device names of all requests. One bad name fails all of it, as in runtimes.

    Raises `CDIError` whose field is the annotation's key.
    """
    keys = [key for key in annotations if key.startswith(prefix)]
    names = []
    for key in keys:
        for name in annotations[key].split(","):
            try:
                parse_qualified_name(name)
            except ValueError as problem:
                raise error(str(problem), field=key) from None
            names.append(name)
    return keys, names
