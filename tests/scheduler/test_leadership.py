"""Which replica decides: by kube-scheduler's Lease, or by one of our own (hami-scheduler.md 1.7)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from deviceplugin.apiserver.client import ApiError
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


def followed(bench: Any, clock: Callable[[], float], look: float = 1.0) -> Followed:
    return Followed(bench.api(), "kube-system", "hami-scheduler", "node-1", clock, look)


def renewed(bench: Any, when: int, **spec: Any) -> None:
    """As kube-scheduler does, every two seconds."""
    spec = {"renewTime": f"2026-01-01T00:00:{when:02}.000000Z", **spec}
    bench.server.patch("leases", "hami-scheduler", {"spec": spec}, "kube-system")


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
    leading = followed(bench, Clock())
    bench.server.create("leases", lease("node-2_1"))
    await leading.look()
    assert leading.holder == "node-2_1"
    renewed(bench, 10, holderIdentity=holder)
    await leading.look()
    assert leading.is_leader() is leads
    assert leading.holder == (holder or "nobody")


async def test_a_renewal_counts_from_before_it_was(bench: Any) -> None:
    """Others may take over so long after they saw it, which is after it was."""
    clock = Clock()
    leading = followed(bench, clock)
    bench.server.create("leases", lease("node-1_x"))
    await leading.look()
    assert not leading.is_leader()  # it may have been renewed long ago
    clock.now += 1
    renewed(bench, 10)
    await leading.look()
    assert leading.left() == 14
    clock.now += 5
    renewed(bench, 12)
    clock.now += 5  # nobody looked for long: renewed at some time since the look before
    await leading.look()
    assert leading.left() == 5
    clock.now += 4.9
    assert leading.is_leader()
    clock.now += 0.2
    assert not leading.is_leader()


async def test_a_lease_that_changes_without_a_renewal_runs_out(bench: Any) -> None:
    clock = Clock()
    leading = followed(bench, clock)
    bench.server.create("leases", lease("node-1_x"))
    await leading.look()
    renewed(bench, 10)
    await leading.look()
    assert leading.left() == 15
    clock.now += 14.9
    labels = {"metadata": {"labels": {"touched": "yes"}}}
    bench.server.patch("leases", "hami-scheduler", labels, "kube-system")
    await leading.look()
    clock.now += 0.2
    assert not leading.is_leader()


async def test_who_follows_sees_a_lease_that_is_given_back_or_deleted(bench: Any) -> None:
    leading = followed(bench, Clock(), look=0.02)
    bench.server.create("leases", lease("node-1_x"))
    async with running(leading):
        await bench.until(lambda: leading.holder == "node-1_x")
        before = leading.term
        renewed(bench, 10)
        await bench.until(leading.is_leader)
        assert leading.term == before
        renewed(bench, 12, holderIdentity="")
        await bench.until(lambda: not leading.is_leader())
        renewed(bench, 14, holderIdentity="node-1_y", leaseTransitions=4)
        await bench.until(leading.is_leader)
        assert leading.term != before
        bench.server.delete("leases", "hami-scheduler", "kube-system")
        await bench.until(lambda: not leading.is_leader())


async def test_who_follows_and_hears_nothing_ceases_to_lead(bench: Any) -> None:
    clock = Clock()
    leading = followed(bench, clock)
    bench.server.create("leases", lease("node-1_x"))
    await leading.look()
    renewed(bench, 10)
    await leading.look()
    bench.server.stop()
    clock.now += 14.9
    with pytest.raises(ApiError):
        await leading.look()
    assert leading.is_leader()
    clock.now += 0.2
    assert not leading.is_leader()


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
        assert (second.term == term) is (leader is second)


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
    assert bench.server.get("leases", "ours", "kube-system")["spec"]["leaseTransitions"] == 4


async def test_a_lease_that_is_deleted_under_its_holder_is_not_taken_before_it_would_run_out(
    bench: Any,
) -> None:
    clock = Clock()
    first, second = (
        Elected(bench.api(), "kube-system", "ours", name, Timing(15, 10, 2), clock)
        for name in ("one", "two")
    )
    await first._round()
    await second._round()
    term = first.term
    bench.server.delete("leases", "ours", "kube-system")
    clock.now += 9
    await second._round()
    assert first.is_leader()
    assert not second.is_leader()
    clock.now += 6.1
    assert not first.is_leader()
    await second._round()
    assert second.is_leader()
    assert second.term != term


async def test_of_two_that_take_a_free_lease_at_once_one_gets_it(bench: Any) -> None:
    replicas = [Elected(bench.api(), "kube-system", "ours", f"r{i}") for i in range(6)]
    await asyncio.gather(*(replica._round() for replica in replicas), return_exceptions=True)
    assert sum(replica.is_leader() for replica in replicas) == 1


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 2, 2), (15, 10, 0), (1, 2, 3)])
def test_timings_that_cannot_work_are_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="more than the next"):
        Timing(*timing)
