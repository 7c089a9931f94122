"""A pod's annotations, asked for one by one: the little that a standalone agent wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deviceplugin.apiserver.client import Api, ApiError, Path
from deviceplugin.refusal import Blame, RefusalError


@dataclass(frozen=True, slots=True)
class ApiPods:
    """Implements `allocation.deferred.PodReader` by asking the API server."""

    api: Api = field(default_factory=Api)

    async def annotations(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The pod's annotations, None when there is no such pod.

        Raises `RefusalError` when the API server does not say; kubelet then tries again.
        """
        try:
            found = await self.api.get(Path.pod(namespace, name))
        except ApiError as error:
            if error.is_missing:
                return None
            raise RefusalError(
                f"the API server did not tell pod {namespace}/{name}: {error}",
                "api-server",
                Blame.TRY_AGAIN,
            ) from None
        annotations = (found.get("metadata") or {}).get("annotations") or {}
        return {str(key): str(value) for key, value in annotations.items()}
