"""Remembers over a restart how devices were split, for the ids that containers still hold.

Everything else of standalone allocation follows from ids and configuration; but with another split
in the configuration nothing else on the node tells what share an older id stands for. The file is
replaced whole and not synced: a machine that crashed has no running containers either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deviceplugin.splitting import Table, VirtualDevice
from deviceplugin.vendor import Sharing, Split

VERSION = 1
SUFFIX = ".splits.json"
"""After the vendor's name, below the agent's run directory."""


def load(path: Path) -> dict[str, Table]:
    """The tables that were saved, without devices; none where there is no file.

    Raises `ValueError`, naming the file, for one that we did not write, and `OSError`.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r} is not {VERSION}")
        return {name: _table(name, groups) for name, groups in document["resources"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from None


def save(path: Path, tables: Mapping[str, Table]) -> None:
    """Replace the file. Raises `OSError`."""
    resources = {name: _groups(table) for name, table in tables.items()}
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps({"version": VERSION, "resources": resources}))
    temporary.replace(path)


def _groups(table: Table) -> list[dict[str, Any]]:
    """The ids by split: a table has one or two of those, and many ids."""
    groups: dict[Split, list[tuple[str, str, int]]] = {}
    for item in table.virtual.values():
        groups.setdefault(item.split, []).append((item.id, item.uuid, item.replica))
    return [{"split": asdict(split), "ids": ids} for split, ids in groups.items()]


def _table(name: str, groups: list[Any]) -> Table:
    virtual = {}
    for group in groups:
        split = Split(**{**group["split"], "sharing": Sharing(group["split"]["sharing"])})
        for identity, uuid, replica in group["ids"]:
            virtual[str(identity)] = VirtualDevice(str(identity), str(uuid), int(replica), split)
    return Table(name, MappingProxyType(virtual), MappingProxyType({}))
