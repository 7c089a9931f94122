"""The manifests of charts/plain, as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deviceplugin.cli.backends import configured
from deviceplugin.vendor.scheduling import SchedulingBackend

TOP = Path(__file__).parents[2]
PLAIN = TOP / "charts" / "plain"

Object = dict[str, Any]


class Manifests:
    """All objects, found by kind and name."""

    def __init__(self, *files: Path) -> None:
        self.objects: list[Object] = [
            item for file in files for item in yaml.safe_load_all(file.read_text())
        ]

    def one(self, kind: str, name: str) -> Object:
        (found,) = (
            item
            for item in self.objects
            if item["kind"] == kind and item["metadata"]["name"] == name
        )
        return found

    def of(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    @property
    def pod(self) -> Object:
        (deployment,) = self.of("Deployment")
        return dict(deployment["spec"]["template"])

    def container(self, name: str) -> Object:
        (found,) = (c for c in self.pod["spec"]["containers"] if c["name"] == name)
        return dict(found)

    @property
    def flags(self) -> list[str]:
        args: list[str] = self.container("scheduler")["args"]
        assert args[0] == "scheduler"
        return args[1:]

    def flag(self, name: str) -> list[str]:
        """The values of a flag."""
        return [a.partition("=")[2] for a in self.flags if a.startswith(f"--{name}=")]

    def configuration(self, name: str, key: str) -> Any:
        return yaml.safe_load(self.one("ConfigMap", name)["data"][key])

    def rights(self, kind: str, name: str) -> list[Right]:
        """What a role allows."""
        return list(_rights(self.one(kind, name)))

    @staticmethod
    def listed(expression: str) -> list[str]:
        """The list of texts that a CEL expression begins with."""
        found = re.match(r"\[[^\]]*\]", expression)
        assert found is not None, expression
        texts: list[str] = json.loads(found[0])
        return texts


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that an account may do; no `names` are all, no `namespace` is everywhere."""

    verb: str
    group: str
    resource: str
    names: frozenset[str]
    namespace: str

    def allows(self, verb: str, group: str, resource: str, name: str, namespace: str) -> bool:
        return (
            (verb, group, resource) == (self.verb, self.group, self.resource)
            and (not self.names or name in self.names)
            and self.namespace in ("", namespace)
        )


def _rights(role: Object) -> Iterator[Right]:
    namespace = role["metadata"].get("namespace", "")
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    names = frozenset(rule.get("resourceNames") or ())
                    yield Right(verb, group, resource, names, namespace)


@pytest.fixture(scope="session")
def plain() -> Manifests:
    return Manifests(*sorted(PLAIN.glob("*.yaml")))


@pytest.fixture(scope="session")
def agent() -> Manifests:
    return Manifests(TOP / "images" / "scheduled.yaml")


@pytest.fixture(scope="session")
def backends(plain: Manifests, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Those that the scheduler has with the configuration of the manifests."""
    file = tmp_path_factory.mktemp("config") / "device-config.yaml"
    text = plain.one("ConfigMap", "deviceplugin-scheduler")["data"]["device-config.yaml"]
    file.write_text(text)
    found: tuple[SchedulingBackend, ...] = configured(str(file)).backends
    assert found
    return found
