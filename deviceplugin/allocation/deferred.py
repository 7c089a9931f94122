"""Where the grant of a deferred allocation comes from.

With deferred allocation, Allocate only names a CDI device; when the container starts, kubelet's
PodResources says whose ids these are, and a `GrantSource` says what that container may have. The
one here serves standalone nodes: the share that the ids stand for, which a pod may make smaller by
annotation. Scheduled allocation brings another source and changes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.vendor import Grant, Owner

LIMITS_ANNOTATION = "limits.deviceplugin.dev/"
"""Followed by the container's name; the value is ``{"memoryMiB": 2048, "cores": 20}`` for each
device of the container, either key alone as well."""

MAX_ANNOTATION = 256
"""Characters; more than any honest value needs."""


class PodReader(Protocol):
    """Who knows the annotations of this node's pods."""

    async def annotations(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The pod's annotations, None when there is no such pod."""


class GrantSource(Protocol):
    """Says what a container may have."""

    async def grants(self, owner: Owner, share: Sequence[Grant]) -> Sequence[Grant]:
        """The grants of the container `owner`; `share` is what its ids stand for.

        `owner.pod_name` is empty where kubelet does not say (ordinary init containers are never
        listed). Raises `RefusalError`.
        """


class ShareOfIds:
    """The share that the ids stand for, whoever asks."""

    async def grants(self, owner: Owner, share: Sequence[Grant]) -> Sequence[Grant]:
        """`share` itself."""
        return share


@dataclass(frozen=True, slots=True)
class AnnotatedShare:
    """The share of the ids, or less where the pod's annotation says so."""

    pods: PodReader

    async def grants(self, owner: Owner, share: Sequence[Grant]) -> Sequence[Grant]:
        """`share`, with smaller limits where the pod asks for them."""
        if not owner.pod_name:
            return share
        annotations = await self.pods.annotations(owner.pod_namespace, owner.pod_name)
        if annotations is None:
            raise RefusalError(
                f"pod {owner.pod_namespace}/{owner.pod_name} is not known yet on this node",
                "pod-unknown",
                Blame.TRY_AGAIN,
            )
        key = LIMITS_ANNOTATION + owner.container
        return share if key not in annotations else limited(share, key, annotations[key])


def limited(share: Sequence[Grant], key: str, value: str) -> tuple[Grant, ...]:
    """The grants with the limits of an annotation. Pure.

    A stranger wrote it: it can make a share smaller and never larger. Raises `RefusalError` naming
    the annotation, what is wrong and what to write.
    """
    asked = _parse(key, value)
    return tuple(
        replace(
            grant,
            memory_mib=_smaller(key, "memoryMiB", grant.memory_mib, asked.get("memoryMiB")),
            cores_percent=_smaller(key, "cores", grant.cores_percent, asked.get("cores")),
        )
        for grant in share
    )


def _parse(key: str, value: str) -> dict[str, int]:
    def refuse(why: str) -> RefusalError:
        example = '{"memoryMiB": 2048, "cores": 20}'
        return RefusalError(f"annotation {key}: {why}; write for example {example}", "annotation")

    if len(value) > MAX_ANNOTATION:
        raise refuse(f"it has more than {MAX_ANNOTATION} characters")
    try:
        asked = json.loads(value)
    except (ValueError, RecursionError):
        raise refuse("it is not JSON") from None
    if not isinstance(asked, dict) or set(asked) - {"memoryMiB", "cores"}:
        raise refuse("it is not an object with memoryMiB and cores")
    for name, number in asked.items():
        if type(number) is not int or number < 1:
            raise refuse(f"{name} is {number!r:.40}, not a whole number above 0")
    return asked


def _smaller(key: str, name: str, granted: int | None, asked: int | None) -> int | None:
    if asked is None:
        return granted
    if granted is None:
        raise RefusalError(
            f"annotation {key}: {name} cannot be limited here, because the resource's sharing "
            "sets no limits",
            "annotation",
        )
    if asked > granted:
        raise RefusalError(
            f"annotation {key}: {name} {asked} is more than the container's share of {granted}; "
            "ask for more devices or for less",
            "annotation",
        )
    return asked
