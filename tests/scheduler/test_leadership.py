"""Which replica decides: by kube-scheduler's Lease, or by one of our own (hami-scheduler.md 1.7)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from deviceplugin.scheduler.leadership import Elected, Followed, Timing

SHORT = Timing(lease=1.0, renew=0.6, retry=0.1)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(holder: str, seconds: int = 15, renewed: str = "1") -> dict[str, Any]:
    return {
        "metadata": {"name": "hami-scheduler", "namespace": "kube-system"},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "leaseTransitions": 3,
            "renewTime": f"2026-01-01T00:00:0{renewed}.000000Z",
        },
    }


@contextlib.asynccontextmanager
async def running(part: Any) -> AsyncIterator[Any]:
    task = asyncio.create_task(part.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("holder", "leads"),
    [
        ("node-1_4f2c", True),
        ("node-10_4f2c", False),
        ("node_1_4f2c", False),
        ("", False),
        ("node-1", True),
    ],
)
async def test_the_holder_is_known_by_its_whole_name(bench: Any, holder: str, leads: bool) -> None:
    followed = Followed(bench.api(), "kube-system", "hami-scheduler", "node-1")
    bench.server.create("leases", lease(holder))
    async with running(followed):
        await bench.until(lambda: followed.term == 3)
        assert followed.is_leader() is leads
        assert followed.holder == (holder or "nobody")


async def test_a_lease_that_is_not_renewed_runs_out_by_our_own_clock(bench: Any) -> None:
    clock = Clock()
    followed = Followed(bench.api(), "kube-system", "hami-scheduler", "node-1", clock)
    bench.server.create("leases", lease("node-1_x"))
    async with running(followed):
        await bench.until(followed.is_leader)
        clock.now += 14.9
        assert followed.is_leader()
        clock.now += 0.2
        assert not followed.is_leader()
        spec = {"spec": {"renewTime": "2026-01-01T00:00:02.000000Z"}}
        bench.server.patch("leases", "hami-scheduler", spec, "kube-system")
        await bench.until(followed.is_leader)
        clock.now += 14.9
        labels = {"metadata": {"labels": {"touched": "yes"}}}
        version = followed._record.version if followed._record else ""
        bench.server.patch("leases", "hami-scheduler", labels, "kube-system")
        await bench.until(lambda: followed._record and followed._record.version != version)
        clock.now += 0.2
        assert not followed.is_leader()  # a change is no renewal
        spec = {"spec": {"renewTime": "2026-01-01T00:00:03.000000Z"}}
        bench.server.patch("leases", "hami-scheduler", spec, "kube-system")
        await bench.until(followed.is_leader)
        bench.server.delete("leases", "hami-scheduler", "kube-system")
        await bench.until(lambda: not followed.is_leader())


async def test_of_two_replicas_one_leads_and_the_other_follows_when_it_ends(bench: Any) -> None:
    first, second = (
        Elected(bench.api(), "kube-system", "ours", name, SHORT) for name in ("one", "two")
    )
    async with running(second):
        async with running(first):
            await bench.until(lambda: first.is_leader() or second.is_leader())
            for _ in range(40):
                assert not (first.is_leader() and second.is_leader())
                await asyncio.sleep(0.02)
            leader = first if first.is_leader() else second
            term = leader.term
            await bench.until(lambda: second.holder == first.holder)
        await bench.until(second.is_leader)
        assert second.term >= term


async def test_who_gives_the_lease_back_is_followed_before_it_would_have_run_out(
    bench: Any,
) -> None:
    long = Timing(lease=60.0, renew=40.0, retry=0.1)
    first = Elected(bench.api(), "kube-system", "ours", "one", long)
    async with running(first):
        await bench.until(first.is_leader)
    assert not first.is_leader()
    second = Elected(bench.api(), "kube-system", "ours", "two", long)
    async with running(second):
        await bench.until(second.is_leader)


async def test_who_is_cut_off_stops_leading_before_another_may_begin(bench: Any) -> None:
    """By its own clock alone: the server never answers again."""
    clock = Clock()
    timing = Timing(lease=15.0, renew=10.0, retry=0.05)
    first = Elected(bench.api(), "kube-system", "ours", "one", timing, clock)
    async with running(first):
        await bench.until(first.is_leader)
        hang = threading.Event()
        bench.server.faults.hang = hang
        try:
            await asyncio.sleep(0.3)  # what was under way is answered, what comes now is not
            clock.now += 9.9
            assert first.is_leader()
            clock.now += 0.2
            await asyncio.sleep(0.3)
            assert not first.is_leader()
        finally:
            hang.set()
            bench.server.faults.hang = None


async def test_an_answer_that_comes_late_does_not_make_a_leader(bench: Any) -> None:
    """The lease counts from when it was asked for."""
    clock = Clock()
    elected = Elected(bench.api(), "kube-system", "ours", "one", Timing(15, 10, 0.05), clock)
    patch, create = elected._api.patch, elected._api.create

    def late(call: Callable[..., Any]) -> Callable[..., Any]:
        async def slow(*arguments: Any) -> Any:
            answer = await call(*arguments)
            clock.now += 11
            return answer

        return slow

    elected._api.patch, elected._api.create = late(patch), late(create)  # type: ignore[method-assign]
    for _ in range(3):
        await elected._round()
        assert not elected.is_leader()


async def test_another_waits_for_the_whole_lease_by_its_own_clock(bench: Any) -> None:
    """Whatever the holder's clock says in its renewals."""
    clock = Clock()
    bench.server.create(
        "leases", {**lease("somebody"), "metadata": {"name": "ours", "namespace": "kube-system"}}
    )
    elected = Elected(bench.api(), "kube-system", "ours", "me", Timing(15, 10, 2), clock)
    await elected._round()
    clock.now += 14.9
    await elected._round()
    assert not elected.is_leader()
    clock.now += 0.2
    await elected._round()
    assert elected.is_leader()
    assert elected.term == 4


async def test_of_two_that_take_a_free_lease_at_once_one_gets_it(bench: Any) -> None:
    replicas = [Elected(bench.api(), "kube-system", "ours", f"r{i}") for i in range(6)]
    await asyncio.gather(*(replica._round() for replica in replicas), return_exceptions=True)
    assert sum(replica.is_leader() for replica in replicas) == 1


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 2, 2), (15, 10, 0), (1, 2, 3)])
def test_timings_that_cannot_work_are_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="more than the next"):
        Timing(*timing)
