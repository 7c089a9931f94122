"""The pods of this node, as the watch shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deviceplugin.apiserver.client import PODS, Api, ApiError, Path
from deviceplugin.apiserver.objects import Pod, pod
from deviceplugin.apiserver.reflector import Change, Reflector


class Pods:
    """Pods by name and by uid; `changed` hears of every change, on the loop."""

    def __init__(self, api: Api, node: str, changed: Callable[[Change[Pod]], None]) -> None:
        self._api, self._changed = api, changed
        self._reflector = Reflector(
            api, PODS, pod, self._seen, field_selector=f"spec.nodeName={node}"
        )
        self._by_uid: dict[str, Pod] = {}
        self._arrived: dict[str, int] = {}

    def __iter__(self) -> Iterator[Pod]:
        return iter(tuple(self._reflector.objects.values()))

    @property
    def synced(self) -> bool:
        """Whether the whole list has been seen since the start."""
        return self._reflector.synced

    @property
    def changes(self) -> int:
        """Goes up with every change and every whole list."""
        return self._reflector.changes

    @property
    def problem(self) -> str:
        """Why nothing new is heard now; empty while the watch is open."""
        return self._reflector.problem

    async def run(self) -> None:
        """Follow the pods until cancelled."""
        await self._reflector.run()

    def get(self, namespace: str, name: str) -> Pod | None:
        """The pod of that name."""
        return self._reflector.objects.get(f"{namespace}/{name}")

    def by_uid(self, uid: str) -> Pod | None:
        """The pod of that uid."""
        return self._by_uid.get(uid)

    def arrival(self, uid: str) -> int:
        """A number that is lower for pods that came to this node earlier, and equal for those that
        were there when the watch began. It is the order in which kubelet, whose watch is the same,
        hears of them.
        """
        return self._arrived.get(uid, self._reflector.moment)

    async def news(self, seconds: float) -> None:
        """Wait for any change, at most so long."""
        await self._reflector.news(seconds)

    async def wait_for(self, found: Callable[[], bool], seconds: float) -> bool:
        """Wait until `found` holds; False when it never did."""
        return await self._reflector.wait_for(found, seconds)

    async def fresh(self, namespace: str, name: str) -> Pod | None:
        """The pod as the API server has it now; None when there is none. Raises `ApiError`."""
        try:
            return pod(await self._api.get(Path.pod(namespace, name)))
        except ValueError as error:
            raise ApiError(f"pod {namespace}/{name}: {error}") from None
        except ApiError as error:
            if error.is_missing:
                return None
            raise

    def learn(self, item: Mapping[str, Any]) -> None:
        """Take in what the API server answered to a write of ours, ahead of the watch."""
        self._reflector.learn(item)

    def _seen(self, change: Change[Pod]) -> None:
        if change.old is not None and self._by_uid.get(change.old.uid) == change.old:
            del self._by_uid[change.old.uid]
            if change.new is None or change.new.uid != change.old.uid:
                self._arrived.pop(change.old.uid, None)
        if change.new is not None:
            self._by_uid[change.new.uid] = change.new
            self._arrived.setdefault(change.new.uid, self._reflector.moment)
        self._changed(change)
