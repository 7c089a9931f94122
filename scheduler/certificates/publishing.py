"""Tells API servers whom to trust: the caBundle of webhook configurations, kept as it should be.

Somebody who applies a manifest again, or another tool, may overwrite it; a watch tells of that.
Every replica may write, on exactly what it read and only where that differs, so that none undoes
another's work.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from deviceplugin.apiserver.client import JSON_PATCH, Api, ApiError, Path
from deviceplugin.apiserver.reflector import Reflector
from deviceplugin.scheduler.certificates.pair import CertificateError, certificates

__all__ = ["MUTATING", "VALIDATING", "Configuration", "Publishing", "changes"]

MUTATING, VALIDATING = "mutatingwebhookconfigurations", "validatingwebhookconfigurations"
COLLECTION = "/apis/admissionregistration.k8s.io/v1/{plural}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A webhook configuration by its collection, `MUTATING` or `VALIDATING`, and its name."""

    plural: str
    name: str

    def __str__(self) -> str:
        return f"{self.plural}/{self.name}"

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(COLLECTION + "/{name}", {"plural": self.plural, "name": self.name})


class Publishing:
    """The configurations of one scheduler. `nudge` is called whenever one of them changed."""

    def __init__(
        self, api: Api, configurations: Sequence[Configuration], nudge: Callable[[], None]
    ) -> None:
        self._api = api
        self._configurations = tuple(configurations)
        self._nudge = nudge
        self.published: dict[Configuration, bool] = dict.fromkeys(configurations, False)
        """Whether each trusts whom it should, as it was left at the last look."""
        self._told: dict[Configuration, str] = {}
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for one in self._configurations:
                group.create_task(self._watched(one).run())

    async def publish(self, bundle: bytes) -> bool:
        """Have all configurations trust the authorities in `bundle`, PEM, and nobody else. Whether
        all did already; one that does not exist calls nobody and needs nothing.
        """
        before = True
        for one in self._configurations:
            try:
                changed = await self._publish(one, bundle)
                self.published[one], problem = True, ""
            except ApiError as error:
                changed = not error.is_missing
                self.published[one], problem = False, str(error)
            before = before and not changed
            self._tell(one, problem)
        return before

    async def _publish(self, one: Configuration, bundle: bytes) -> bool:
        """Whether it had to be changed. Raises `ApiError`."""
        operations = changes(await self._api.get(one.path), bundle)
        if operations:
            await self._api.patch(one.path, operations, JSON_PATCH)
            self._log.info("a webhook configuration trusts the scheduler", configuration=str(one))
        return bool(operations)

    def _watched(self, one: Configuration) -> Reflector[str]:
        return Reflector[str](
            self._api,
            Path(COLLECTION, {"plural": one.plural}),
            lambda item: str(item["metadata"]["resourceVersion"]),
            lambda _change: self._nudge(),
            field_selector=f"metadata.name={one.name}",
        )

    def _tell(self, one: Configuration, problem: str) -> None:
        if problem and problem != self._told.get(one):
            self._log.warning("a webhook configuration was not seen to", reason=problem)
        self._told[one] = problem


def changes(item: Mapping[str, Any], bundle: bytes) -> list[dict[str, object]]:
    """The JSON patch that makes every webhook of a configuration trust a bundle; empty where all
    do. Pure. It states the version that was read, so that a newer one is a conflict.
    """
    wanted = frozenset(certificates(bundle, "the bundle"))
    text = base64.b64encode(bundle).decode()
    found = list(_changes(item, wanted, text))
    if not found:
        return []
    version = (item.get("metadata") or {}).get("resourceVersion")
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, *found]


def _changes(
    item: Mapping[str, Any], wanted: frozenset[object], text: str
) -> Iterator[dict[str, object]]:
    for index, webhook in enumerate(item.get("webhooks") or ()):
        trusted = (webhook.get("clientConfig") or {}).get("caBundle") or ""
        if _trusted(trusted) != wanted:
            path = f"/webhooks/{index}/clientConfig/caBundle"
            yield {"op": "add", "path": path, "value": text}


def _trusted(text: str) -> frozenset[object]:
    """Compared as certificates, because tools write the same ones with other white space."""
    try:
        return frozenset(certificates(base64.b64decode(text), "caBundle"))
    except (CertificateError, binascii.Error, ValueError):
        return frozenset()
