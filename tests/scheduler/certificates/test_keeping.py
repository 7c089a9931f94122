"""What is due of a Secret: at no instant is a certificate served that nobody was told to trust."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.scheduler.certificates.issuing import (
    Lifetimes,
    hosts_of,
    new_serving,
)
from deviceplugin.scheduler.certificates.keeping import (
    Found,
    Kept,
    data_of,
    found_in,
    next_due,
    renewed,
)
from deviceplugin.scheduler.certificates.pair import expired, is_issued_by

START = datetime(2026, 3, 1, tzinfo=UTC)
LIFETIMES = Lifetimes()
HOSTS = frozenset({"scheduler.svc", "127.0.0.1"})
EMPTY = Found(is_empty=True)
DAY = timedelta(days=1)


def after(
    found: Found,
    now: datetime,
    *,
    published: bool = True,
    remembered: Kept | None = None,
    hosts: frozenset[str] = HOSTS,
) -> tuple[Kept, tuple[str, ...]]:
    return renewed(found, remembered, hosts, now, LIFETIMES, published=published)


def fresh() -> Kept:
    kept, reasons = after(EMPTY, START)
    assert reasons
    return kept


def read(kept: Kept) -> Found:
    return found_in(data_of(kept))


def test_an_empty_secret_is_filled_and_nothing_is_due_then() -> None:
    kept = fresh()
    found = read(kept)
    assert found == Found(kept.authorities, kept.serving)
    assert found.whole == kept
    assert after(found, START) == (kept, ())
    assert hosts_of(kept.serving.certificate) == HOSTS
    assert next_due(kept, LIFETIMES) > START + LIFETIMES.serving / 2


def test_the_serving_certificate_is_renewed_under_the_same_authority() -> None:
    kept = fresh()
    due = next_due(kept, LIFETIMES)
    assert after(read(kept), due - timedelta(seconds=1)) == (kept, ())
    later, reasons = after(read(kept), due)
    assert reasons == ("the serving certificate is to be renewed",)
    assert later.authorities == kept.authorities
    assert later.serving != kept.serving
    assert after(read(later), due) == (later, ())


def test_an_authority_is_renewed_in_steps() -> None:
    """Trusted first, serving then, alone at last."""
    kept = fresh()
    due = START + LIFETIMES.authority * 0.7
    kept = Kept(kept.authorities, serving_at(kept, due - DAY))
    both, reasons = after(read(kept), due)
    assert reasons == ("the authority is to be renewed",)
    assert both.authorities[1:] == kept.authorities
    assert both.serving == kept.serving
    assert after(read(both), due, published=False) == (both, ())
    # Meanwhile the old one goes on: its certificates are renewed without anybody being told.
    renewal, _ = after(read(both), due + 80 * DAY, published=False)
    assert renewal.issuer == kept.authorities[0]
    moved, reasons = after(read(both), due)
    assert reasons == ("the new authority is trusted everywhere",)
    assert moved.issuer == both.authorities[0]
    assert moved.authorities == both.authorities
    assert after(read(moved), due + LIFETIMES.overlap - timedelta(seconds=1)) == (moved, ())
    assert next_due(moved, LIFETIMES) == due + LIFETIMES.overlap
    last, _ = after(read(moved), due + LIFETIMES.overlap)
    assert last.authorities == moved.authorities[:1]
    assert last.serving == moved.serving


def serving_at(kept: Kept, when: datetime) -> object:
    return new_serving(kept.authorities[0].pair, HOSTS, when, LIFETIMES)


def test_replicas_that_are_told_of_different_hosts_do_not_take_turns() -> None:
    kept = fresh()
    mine, reasons = after(read(kept), START, hosts=frozenset({"a", "127.0.0.1"}))
    assert reasons == ("the serving certificate is not for a",)
    assert hosts_of(mine.serving.certificate) == HOSTS | {"a"}
    assert after(read(mine), START) == (mine, ())


def test_a_secret_that_was_emptied_gets_another_authority_beside_the_remembered_one() -> None:
    kept = fresh()
    new, _ = after(EMPTY, START, remembered=kept)
    assert new.authorities[1:] == kept.authorities
    assert new.authorities[0] != kept.authorities[0]
    assert new.serving == kept.serving


DAMAGES: dict[str, Callable[[dict[str, str], Kept], None]] = {
    "no key of the authority": lambda data, _: data.pop("ca.key"),
    "no authority": lambda data, _: data.pop("ca.crt"),
    "no certificate": lambda data, _: data.pop("tls.crt"),
    "no key": lambda data, _: data.pop("tls.key"),
    "no base64": lambda data, _: data.update({"tls.crt": "%%%"}),
    "cut": lambda data, _: data.update({"ca.key": data["ca.key"][:40]}),
    "another's key": lambda data, other: data.update({"tls.key": data_of(other)["tls.key"]}),
    "another's pair": lambda data, other: data.update(
        {key: data_of(other)[key] for key in ("tls.crt", "tls.key")}
    ),
    "another's authority": lambda data, other: data.update({"ca.crt": data_of(other)["ca.crt"]}),
    "a server as authority": lambda data, _: data.update({"ca.crt": data["tls.crt"]}),
    "texts": lambda data, _: data.update({"ca.key": base64.b64encode(b"secret").decode()}),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_secret_is_mended_from_what_is_remembered(damage: str) -> None:
    kept = fresh()
    data = data_of(kept)
    DAMAGES[damage](data, fresh())
    found = found_in(data)
    assert found.problems
    assert found.whole is None
    assert after(found, START, remembered=kept)[0] == kept


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_without_memory_what_is_left_is_kept_and_the_rest_made_anew(damage: str) -> None:
    kept = fresh()
    data = data_of(kept)
    DAMAGES[damage](data, fresh())
    found = found_in(data)
    new, reasons = after(found, START, published=False)
    assert reasons[: len(found.problems)] == found.problems
    again = read(new)
    assert again.whole == new
    assert after(again, START, published=False) == (new, ())
    if "ca." not in str(found.problems):
        assert new.authorities == kept.authorities


def test_an_expired_certificate_is_replaced_at_once() -> None:
    """Nobody takes it any more, so there is nothing to wait for."""
    kept = fresh()
    late = START + LIFETIMES.authority * 2
    new, reasons = after(read(kept), late, published=False)
    assert "an authority has expired" in reasons
    assert len(new.authorities) == 1
    assert not expired(new.serving.certificate, late)


def test_an_authority_that_signs_no_certificates_is_replaced_and_stays_trusted() -> None:
    """Somebody put in his own, of a type that TLS does not use like that."""
    kept = fresh()
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mine")])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, START, START + 9 * DAY)
    mine = builder.add_extension(constraints, critical=True).sign(key, None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    data = data_of(kept)
    data["ca.crt"] = base64.b64encode(mine.public_bytes(Encoding.PEM)).decode()
    data["ca.key"] = base64.b64encode(key.private_bytes(*form)).decode()
    found = found_in(data)
    assert "ca.key has no key of the first certificate in ca.crt" in found.problems
    new, _ = after(found, START)
    assert [each.certificate for each in new.authorities[1:]] == [mine]
    assert new.issuer == new.authorities[0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 1200)),
        st.tuples(st.just("publish"), st.just(0)),
        st.tuples(st.just("empty"), st.just(0)),
        st.tuples(st.just("damage"), st.integers(0, len(DAMAGES) - 1)),
    ),
    max_size=25,
)
OTHER = fresh()


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_happens_clients_trust_what_is_served(steps: list[tuple[str, int]]) -> None:
    """API servers trust what was last published; a replica that remembers runs all the time, and
    looks at least once a fortnight.
    """
    kept, now = fresh(), START
    data, trusted = data_of(kept), kept.authorities
    for what, amount in steps:
        if what == "publish":
            trusted = kept.authorities
        elif what == "empty":
            data = {}
        elif what == "damage":
            list(DAMAGES.values())[amount](data, OTHER)
        for part in range(0, max(amount if what == "wait" else 1, 1), 14):
            days = min(14, amount - part) if what == "wait" else 0
            now += timedelta(days=days)
            told = trusted == kept.authorities and data == data_of(kept)
            kept, _ = renewed(found_in(data), kept, HOSTS, now, LIFETIMES, published=told)
            data = data_of(kept)
            assert found_in(data).whole == kept
            assert kept.authorities[0].key
            assert not expired(kept.serving.certificate, now)
            by_trusted = any(
                is_issued_by(kept.serving.certificate, each.certificate)
                and not expired(each.certificate, now)
                for each in trusted
            )
            # Where nobody was told of a new authority for years, the old one runs out some day.
            assert by_trusted or all(expired(each.certificate, now) for each in trusted)
