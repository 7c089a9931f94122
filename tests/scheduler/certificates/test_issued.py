"""Replicas issue, renew and publish a certificate of their own; clients trust what API servers are
told to trust, ask all the time, and no request fails.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deviceplugin.scheduler.certificates.issued import SECRET_TYPE, IssuedCertificate, Pace
from deviceplugin.scheduler.certificates.issuing import Lifetimes
from deviceplugin.scheduler.certificates.keeping import Found, found_in
from deviceplugin.scheduler.certificates.metrics import CertificateMetrics
from deviceplugin.scheduler.certificates.publishing import MUTATING, VALIDATING, Configuration
from deviceplugin.scheduler.certificates.serving import Serving

NAMESPACE, NAME = "scheduling", "scheduler-tls"
HOOKS = (Configuration(MUTATING, "ours"), Configuration(VALIDATING, "ours"))
HOST = "scheduler.scheduling.svc"
DAY = timedelta(days=1)
PACE = Pace(settle=60.0, poll=0.5, again=0.02, pause=0.005)
NEVER = Pace(settle=60.0, poll=3600.0, again=3600.0, pause=0.005)
"""Only events wake it."""
LIFETIMES = Lifetimes(authority=600 * DAY, serving=100 * DAY)


def hooks(names: tuple[str, ...] = ("a", "b"), bundle: str | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {"url": "https://127.0.0.1:1/x"}
    if bundle is not None:
        config["caBundle"] = bundle
    return {
        "metadata": {"name": "ours"},
        "webhooks": [{"name": f"{name}.x.y", "clientConfig": dict(config)} for name in names],
    }


class Replica:
    """One replica's part that keeps the certificate."""

    def __init__(
        self,
        bench: Any,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        pace: Pace,
        configurations: tuple[Configuration, ...] = HOOKS,
    ) -> None:
        self.serving = Serving(now=clock)
        self.issued = IssuedCertificate(
            bench.api(),
            NAMESPACE,
            NAME,
            (HOST, "localhost", "127.0.0.1"),
            configurations,
            self.serving,
            lifetimes=LIFETIMES,
            pace=pace,
            now=clock,
            monotonic=monotonic,
        )

    async def run(self) -> None:
        await self.issued.run()


class World:
    """An API server, a clock for all replicas, and what they did."""

    def __init__(self, bench: Any, making: Any, running: Any) -> None:
        self.bench, self.server = bench, bench.server
        self.making, self.running = making, running
        self.clock = making.Clock(datetime.now(UTC).replace(microsecond=0))
        self.seconds = 1000.0
        self._turn = 0

    def replica(
        self, pace: Pace = PACE, configurations: tuple[Configuration, ...] = HOOKS
    ) -> Replica:
        return Replica(self.bench, self.clock, lambda: self.seconds, pace, configurations)

    def publish(self) -> None:
        for one in HOOKS:
            self.server.create(one.plural, hooks())

    def secret(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.get("secrets", NAME, NAMESPACE)
        return found

    def held(self) -> Found:
        return found_in(self.secret()["data"])

    def bundles(self) -> set[bytes]:
        return {
            base64.b64decode(hook["clientConfig"].get("caBundle") or "")
            for one in HOOKS
            for hook in self.server.get(one.plural, "ours")["webhooks"]
        }

    def trust(self) -> bytes:
        """What the next of all webhooks trusts: whichever calls, is to be served."""
        bundles = sorted(self.bundles())
        self._turn += 1
        return bundles[self._turn % len(bundles)]

    def writes(self) -> list[str]:
        return [
            f"{call.verb} {call.path} {call.status}"
            for call in self.server.calls
            if call.verb not in ("get", "list", "watch")
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        await self.bench.until(condition, 60.0)

    @contextlib.asynccontextmanager
    async def served(self, *replicas: Replica) -> AsyncIterator[list[Any]]:
        """All of them running, each asked by a client that trusts what is published."""
        async with contextlib.AsyncExitStack() as stack:
            for replica in replicas:
                await stack.enter_async_context(self.running(replica))
            await self.until(lambda: all(each.serving.pair for each in replicas))
            await self.until(lambda: len(self.bundles()) == 1 and self.trust())
            yield [
                await stack.enter_async_context(
                    self.making.asking(replica.serving.context, self.trust)
                )
                for replica in replicas
            ]


@pytest.fixture
def world(bench: Any, making: Any, running: Any) -> World:
    return World(bench, making, running)


# --- the beginning --------------------------------------------------------------------------------


async def test_a_secret_is_made_where_there_is_none_and_everybody_told(world: World) -> None:
    world.publish()
    replica = world.replica()
    assert replica.serving.blockers() == {"certificate": "there is none yet"}
    await replica.issued.look()
    secret, held = world.secret(), world.held()
    assert secret["type"] == SECRET_TYPE
    assert held.whole is not None
    assert replica.serving.pair == held.serving
    assert replica.serving.blockers() == {}
    assert world.trust() == held.whole.bundle
    before = world.writes()
    await replica.issued.look()
    assert world.writes() == before


async def test_an_empty_secret_that_stands_there_already_is_filled(world: World) -> None:
    item = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "type": SECRET_TYPE}
    world.server.create("secrets", item)
    replica = world.replica(configurations=())
    await replica.issued.look()
    assert world.held().serving == replica.serving.pair
    assert world.writes() == [f"patch /api/v1/namespaces/{NAMESPACE}/secrets/{NAME} 200"]


@pytest.mark.parametrize("there_is_one", [True, False])
async def test_replicas_that_start_at_once_agree(world: World, there_is_one: bool) -> None:
    world.publish()
    if there_is_one:
        item = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "type": SECRET_TYPE}
        world.server.create("secrets", item)
    replicas = [world.replica() for _ in range(4)]
    # So that all of them read before one of them writes.
    world.server.faults.slow = 0.05
    await asyncio.gather(*(each.issued.look() for each in replicas))
    world.server.faults.slow = 0.0
    assert {each.serving.pair for each in replicas} == {world.held().serving}
    assert {each.serving.failures for each in replicas} == {0}
    for _ in replicas:
        await asyncio.gather(*(each.issued.look() for each in replicas))
    assert len(world.held().authorities) == 1
    assert any(write.endswith(" 409") for write in world.writes())


async def test_somebody_elses_secret_is_left_alone(world: World) -> None:
    metadata = {"name": NAME, "namespace": NAMESPACE}
    data = {"tls.crt": "eA==", "tls.key": "eA=="}
    item = {"metadata": metadata, "type": "kubernetes.io/tls", "data": data}
    world.server.create("secrets", item)
    replica = world.replica()
    await replica.issued.look()
    reason = replica.serving.blockers()["certificate"]
    assert "somebody else's: its type is 'kubernetes.io/tls'" in reason
    assert "--cert_file" in reason
    assert world.writes() == []
    await replica.issued.look()
    assert replica.serving.failures == 1


async def test_what_the_account_may_not_do_is_said_until_it_may(world: World) -> None:
    replica = world.replica(configurations=())
    world.server.faults.deny = {("create", "secrets")}
    async with world.running(replica):
        await world.until(lambda: "403" in replica.serving.problem)
        assert "cannot create" in replica.serving.blockers()["certificate"]
        world.server.faults.deny = set()
        await world.until(lambda: replica.serving.blockers() == {})


async def test_replicas_whose_clocks_differ_do_not_take_turns(world: World) -> None:
    ahead, behind = world.replica(configurations=()), world.replica(configurations=())
    here = world.clock()
    for hours, replica in ((12, ahead), (-12, behind)) * 3:
        world.clock.at = here + timedelta(hours=hours)
        await replica.issued.look()
        pair = replica.serving.pair
        assert pair is not None
        assert pair.certificate.not_valid_before_utc <= here - timedelta(hours=12)
    assert len([write for write in world.writes() if write.endswith(" 201")]) == 1
    assert len(world.writes()) == 1


# --- renewal --------------------------------------------------------------------------------------


async def test_the_certificate_is_renewed_under_load(world: World) -> None:
    world.publish()
    world.clock.move(-80 * DAY)
    first, second = world.replica(), world.replica()
    async with world.served(first, second) as clients:
        old, trust = first.serving.pair, world.trust()
        world.clock.move(70 * DAY)
        await world.until(lambda: {first.serving.pair, second.serving.pair} != {old})
        await world.until(lambda: first.serving.pair == second.serving.pair)
        assert first.serving.pair is not None
        for client in clients:
            await client.sees(first.serving.pair)
        assert world.trust() == trust


async def test_the_authority_is_renewed_under_load(world: World) -> None:
    """In steps: trusted, then serving, then alone."""
    world.publish()
    world.clock.move(-410 * DAY)
    first, second = world.replica(), world.replica()
    await first.issued.look()
    old = world.held().authorities
    world.clock.move(380 * DAY)
    await first.issued.look()
    async with world.served(first, second) as clients:
        assert world.held().authorities == old
        world.clock.move(21 * DAY)
        await world.until(lambda: len(world.held().authorities) == 2)
        served = world.held().serving
        both = world.held().whole
        assert both is not None
        await world.until(lambda: world.bundles() == {both.bundle})
        for client in clients:
            await client.more(20)
        # Not all API servers need have heard yet.
        assert {first.serving.pair, second.serving.pair} == {served}
        world.seconds += PACE.settle
        await world.until(lambda: world.held().serving != served)
        moved = world.held().whole
        assert moved is not None
        assert moved.issuer == moved.authorities[0]
        assert moved.authorities == both.authorities
        for client in clients:
            await client.sees(moved.serving)
        world.clock.move(LIFETIMES.overlap)
        await world.until(lambda: len(world.held().authorities) == 1)
        await world.until(lambda: world.bundles() == {world.held().whole.bundle})  # type: ignore[union-attr]
        assert world.held().authorities == moved.authorities[:1]
        assert world.held().serving == moved.serving


async def test_a_new_authority_serves_only_once_everybody_was_told(world: World) -> None:
    world.publish()
    world.clock.move(-410 * DAY)
    replica = world.replica()
    await replica.issued.look()
    old = world.held().authorities[0]
    world.clock.move(380 * DAY)
    await replica.issued.look()
    world.server.faults.deny = {("patch", VALIDATING)}
    world.clock.move(21 * DAY)
    for _ in range(3):
        world.seconds += PACE.settle
        await replica.issued.look()
        held = world.held().whole
        assert held is not None
        assert held.issuer == old  # and was renewed meanwhile, so nobody has to hurry
    assert replica.issued.publishing.published == {HOOKS[0]: True, HOOKS[1]: False}
    world.server.faults.deny = set()
    for _ in range(3):
        world.seconds += PACE.settle
        await replica.issued.look()
    held = world.held().whole
    assert held is not None
    assert held.issuer == held.authorities[0]


# --- what somebody did ----------------------------------------------------------------------------


async def test_a_secret_that_somebody_removed_is_made_anew_under_load(world: World) -> None:
    world.publish()
    replica = world.replica()
    async with world.served(replica) as (client,):
        old = world.held().whole
        assert old is not None
        world.server.delete("secrets", NAME, NAMESPACE)
        await world.until(lambda: _made_anew(world, old.authorities[0]))
        assert replica.serving.pair == old.serving
        await client.more(20)
        world.seconds += PACE.settle
        await world.until(lambda: replica.serving.pair != old.serving)
        await client.sees(replica.serving.pair)
        world.clock.move(LIFETIMES.overlap)
        await world.until(lambda: len(world.held().authorities) == 1)
        assert world.held().authorities[0] != old.authorities[0]


def _made_anew(world: World, old: Any) -> bool:
    names = [item["metadata"]["name"] for item in world.server.objects("secrets", NAMESPACE)]
    if names != [NAME]:
        return False
    held = world.held().whole
    return held is not None and held.authorities[1:] == (old,) and world.trust() == held.bundle


@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
async def test_a_secret_that_somebody_damaged_is_mended_under_load(world: World, key: str) -> None:
    world.publish()
    replica = world.replica(NEVER)
    async with world.served(replica) as (client,):
        old = world.held().whole
        assert old is not None
        world.server.patch("secrets", NAME, {"data": {key: "eHh4"}}, NAMESPACE)
        await world.until(lambda: world.held().whole == old)
        await client.more(20)
        assert replica.serving.pair == old.serving
        assert replica.serving.failures == 0


async def test_a_bundle_that_somebody_overwrote_is_restored(world: World) -> None:
    world.publish()
    replica = world.replica(NEVER)
    async with world.running(replica):
        await world.until(lambda: len(world.bundles()) == 1 and world.trust())
        trust = world.trust()
        for one in HOOKS:
            for bundle in ("", base64.b64encode(b"garbage").decode(), None):
                world.server.patch(one.plural, "ours", hooks(bundle=bundle))
                if bundle is None:
                    world.server.patch(one.plural, "ours", {"webhooks": hooks()["webhooks"]})
                await world.until(lambda: world.bundles() == {trust})


async def test_a_configuration_that_comes_later_is_told_then(world: World) -> None:
    replica = world.replica(NEVER)
    async with world.running(replica):
        await world.until(lambda: replica.serving.pair)
        assert replica.issued.publishing.published == dict.fromkeys(HOOKS, False)
        world.publish()
        await world.until(lambda: world.bundles() == {world.held().whole.bundle})  # type: ignore[union-attr]
        await world.until(lambda: all(replica.issued.publishing.published.values()))


async def test_an_api_server_that_is_away_takes_nothing_from_clients(world: World) -> None:
    world.publish()
    replica = world.replica()
    async with world.served(replica) as (client,):
        trust = world.trust()
        world.server.stop()
        world.trust = lambda: trust  # type: ignore[method-assign]
        await world.until(lambda: "no answer" in replica.serving.problem)
        await client.more(20)
        assert replica.serving.blockers() == {}
        world.clock.move(LIFETIMES.serving)
        assert "no answer" in replica.serving.blockers()["certificate"]
        world.clock.move(-LIFETIMES.serving)
        world.server.start()
        await world.until(lambda: replica.serving.problem == "")


async def test_its_metrics(world: World) -> None:
    world.publish()
    replica = world.replica()
    found = CertificateMetrics(replica.serving, replica.issued)

    def samples() -> dict[str, float]:
        return {
            f"{sample.name}{','.join(sample.labels.values())}": sample.value
            for metric in found.collect()
            for sample in metric.samples
        }

    prefix = "deviceplugin_certificate"
    before = samples()
    assert before[f"{prefix}_authorities"] == 0
    assert before[f"{prefix}_reload_failures_total"] == 0
    assert before[f"{prefix}_published{MUTATING}/ours"] == 0
    world.server.faults.deny = {("create", "secrets")}
    await replica.issued.look()
    assert samples()[f"{prefix}_reload_failures_total"] == 1
    world.server.faults.deny = set()
    await replica.issued.look()
    after, now = samples(), world.clock().timestamp()
    assert after[f"{prefix}_published{VALIDATING}/ours"] == 1
    assert after[f"{prefix}_authorities"] == 1
    ends = f"{prefix}_not_after_timestamp_seconds"
    assert after[f"{ends}serving"] == now + LIFETIMES.serving.total_seconds()
    assert after[f"{ends}authority"] == now + LIFETIMES.authority.total_seconds()
