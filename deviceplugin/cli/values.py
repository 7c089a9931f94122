"""Kinds of values that flags take, each refused where it cannot be meant, with what to write."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import click

from deviceplugin.api.fields import UnfitError, duration_seconds, host_port

__all__ = [
    "SWITCH",
    "SYSTEM",
    "Account",
    "Address",
    "Duration",
    "Host",
    "Labels",
    "Name",
    "Scheduler",
    "check_nodes",
    "duration",
]

SWITCH: Mapping[str, Any] = {"is_flag": False, "flag_value": True, "type": click.BOOL}

LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
WORD = re.compile(r"[!-~]{1,253}")
LONGEST_NAME = 253
LONGEST_DURATION = 365 * 24 * 3600.0
"""Seconds; more is a slip of the pen."""

SYSTEM = "system:"
"""How the names begin that Kubernetes gives itself, ``system:kube-scheduler`` for one."""
SERVICE_ACCOUNT = f"{SYSTEM}serviceaccount:"


def duration(text: str) -> timedelta:
    """A Go duration: ``5m``, ``1h30m``, ``1.5s``. Raises `ValueError`."""
    seconds = duration_seconds(text)
    if seconds is None:
        raise ValueError(f"{text!r:.80} is no duration: write 5m, 90s or 1h30m")
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{text!r:.80} is more than a year: write a shorter one")
    return timedelta(seconds=seconds)


class Duration(click.ParamType[timedelta]):
    """A Go duration: ``5m``, ``1h30m``, ``90s``."""

    name = "duration"

    def __init__(self, *, positive: bool = False) -> None:
        """Where it is `positive`, none at all is refused."""
        self._positive = positive

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """As it is written."""
        if isinstance(value, timedelta):
            return value
        try:
            found = duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._positive and not found:
            self.fail(f"{value!r} is no time at all: write 5m, 90s or 1h30m", param, ctx)
        return found


class Address(click.ParamType[str]):
    """An address to listen on: ``host:port``; without a host it is all of IPv4, as Go reads it and
    HAMi's chart writes it.
    """

    name = "host:port"

    def __init__(self, *, optional: bool = False) -> None:
        """Where it is `optional`, an empty text switches it off."""
        self._optional = optional

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """With its host."""
        text = str(value)
        if self._optional and not text:
            return text
        try:
            host, _ = host_port(text)
        except UnfitError as error:
            off = "; or nothing for off" if self._optional else ""
            self.fail(f"{text!r:.80} is {error}{off}", param, ctx)
        return text if host else f"0.0.0.0{text}"  # noqa: S104


class Host(click.ParamType[str]):
    """A host name in lower case, or an address."""

    name = "host"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """As certificates name it."""
        text = str(value)
        try:
            return str(ip_address(text))
        except ValueError:
            if len(text) > LONGEST_NAME or not SUBDOMAIN.fullmatch(text):
                self.fail(
                    f"{text!r:.80} is no host name in lower case and no address: write for example "
                    "SERVICE.NAMESPACE.svc with their names, or 10.0.0.1",
                    param,
                    ctx,
                )
        return text


class Name(click.ParamType[str]):
    """The name of an object of Kubernetes; an empty text where nothing is named."""

    name = "name"

    def __init__(self, kind: str) -> None:
        """`kind` is what is named; namespaces have names of one part."""
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """As the API server takes it."""
        text = str(value)
        one = self._kind == "Namespace"
        longest, pattern = (63, LABEL) if one else (LONGEST_NAME, SUBDOMAIN)
        if text and (len(text) > longest or not pattern.fullmatch(text)):
            dots = "" if one else ", dots"
            self.fail(
                f"{text!r:.80} cannot be the name of a {self._kind}: write the name alone, at most "
                f"{longest} lower case letters, digits{dots} and dashes, no dash at the ends",
                param,
                ctx,
            )
        return text


class Account(click.ParamType[str]):
    """Who asks an API server, by the name that it has there."""

    name = "account"

    def __init__(self, *, service: bool = False) -> None:
        """Only a `service` account's where only they can be meant. Else it may be any user, for
        certificates and identity providers name them as they like: ``kubernetes-admin``.
        """
        self._service = service

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Whole: a service account's own name alone is another user's."""
        text = str(value)
        if not self._fits(text):
            form = f"{SERVICE_ACCOUNT}NAMESPACE:NAME"
            other = "" if self._service else ", or the name of a user"
            self.fail(f"{text!r:.80} is no account: write {form}{other}", param, ctx)
        return text

    def _fits(self, text: str) -> bool:
        if text.startswith(SERVICE_ACCOUNT):
            namespace, _, name = text.removeprefix(SERVICE_ACCOUNT).partition(":")
            return bool(LABEL.fullmatch(namespace) and SUBDOMAIN.fullmatch(name))
        return not self._service and text.isprintable() and bool(text) and text == text.strip()


class Labels(click.ParamType[tuple[tuple[str, str], ...]]):
    """``key=value[,key=value]``."""

    name = "labels"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[str, str], ...]:
        """All of them have to be on a node."""
        if isinstance(value, tuple):
            return value
        pairs = []
        for part in filter(None, str(value).split(",")):
            key, sign, text = part.strip().partition("=")
            if not sign or not key:
                self.fail(f"{part!r} is not key=value", param, ctx)
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(text):
                self.fail(f"{part!r} can be on no node: write key=value", param, ctx)
            pairs.append((key, text))
        if value and not pairs:
            self.fail(f"{value!r:.80} names no label: write key=value", param, ctx)
        return tuple(pairs)


class Scheduler(click.ParamType[str]):
    """The name by which pods choose their scheduler."""

    name = "name"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """As it is written."""
        text = str(value)
        if not WORD.fullmatch(text):
            self.fail(f"{text!r:.80} is no name: write one without blanks", param, ctx)
        return text


def check_nodes(given: Sequence[str], known: Collection[str], flag: str) -> None:
    """Raises `click.BadParameter` where one of those that are `given` is not among those that are
    `known`, with the one that is most like it: there may be thousands.
    """
    from difflib import get_close_matches  # where a name is wrong, so hardly ever

    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            other = f"{min(known)} is one" if known else "there are none"
            remedy = f"did you mean {close[0]}?" if close else other
            text = f"no node {name!s:.80} among {len(known):,}; {remedy}"
            raise click.BadParameter(text, param_hint=flag)
