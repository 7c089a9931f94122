"""The API server, for the little that a standalone agent wants of it: a pod's annotations.

Objects are raw JSON, projected at once; the generated models of the official client would cost more
memory than the rest of the agent. The client is imported when the first question is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

from deviceplugin.refusal import Blame, RefusalError

LIMIT_SECONDS = 5.0


def is_configured(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has a way to an API server."""
    return "KUBERNETES_SERVICE_HOST" in environ or "KUBECONFIG" in environ


class ApiPods:
    """Implements `allocation.deferred.PodReader` by asking the API server."""

    def __init__(self) -> None:
        self._client: Any = None
        self._lock = asyncio.Lock()

    async def annotations(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The pod's annotations, None when there is no such pod.

        Raises `RefusalError` when the API server gives no answer within `LIMIT_SECONDS`; kubelet
        then tries the container again.
        """
        async with self._lock:
            if self._client is None:
                self._client = await asyncio.to_thread(_client)
        try:
            status, body = await asyncio.to_thread(self._get, namespace, name)
            if status == 404:
                return None
            if status != 200:
                raise ConnectionError(f"status {status}")
            annotations = json.loads(body)["metadata"].get("annotations") or {}
            return {str(key): str(value) for key, value in annotations.items()}
        except Exception as error:
            raise RefusalError(
                f"the API server did not tell pod {namespace}/{name}: "
                f"{type(error).__name__}: {error}",
                "api-server",
                Blame.TRY_AGAIN,
            ) from None

    def _get(self, namespace: str, name: str) -> tuple[int, bytes]:
        call = self._client.param_serialize(
            method="GET",
            resource_path="/api/v1/namespaces/{namespace}/pods/{name}",
            path_params={"namespace": namespace, "name": name},
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*call, _request_timeout=LIMIT_SECONDS)
        return response.status, response.read()


def _client() -> Any:
    from kubernetes import client, config

    if "KUBECONFIG" in os.environ:
        config.load_kube_config()  # type: ignore[no-untyped-call]
    else:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    return client.ApiClient()
