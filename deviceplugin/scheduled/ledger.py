"""What this node has handed over: one record a container and resource, kept across restarts.

The file is a memory, not the truth: pods, their annotations and kubelet's own record rebuild it
(see `Mode.adopt`), so it is replaced by rename without waiting for the disk. All agents of a node
share it: those that divide its vendors among them, and one that ends while the next begins. So each
change starts from what the file says.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024


class LedgerError(ValueError):
    """The file cannot be used; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of one device: memory in MiB, cores in percent; 0 cores mean no limit.

    `slot` is the hardware partition that the scheduler means (``1-0``), empty for a share that is
    limited by software.
    """

    uuid: str
    memory_mib: int
    cores_percent: int
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One container's grant of one resource and the ids that kubelet gave for it.

    `init` marks ordinary init containers, whose devices later containers of the pod use again.
    `starts` counts how often kubelet
    announced the start of one.
    """

    vendor: str
    resource: str
    ids: frozenset[str]
    pod_uid: str
    namespace: str
    pod: str
    container: str
    shares: tuple[Share, ...]
    init: bool = False
    starts: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """Pod uid, container and resource: what there is one record for."""
        return (self.pod_uid, self.container, self.resource)

    @property
    def owner(self) -> str:
        """``namespace/pod/container`` for people."""
        return f"{self.namespace}/{self.pod}/{self.container}"


class Ledger:
    """The records, in memory and in a file. Blocking where it writes; from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._records: dict[tuple[str, str, str], Record] = {}
        self._texts: dict[Record, str] = {}
        self._seen: tuple[int, int, int] | None = None
        """The file that the records are from."""

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records.values()))

    def get(self, pod_uid: str, container: str, resource: str) -> Record | None:
        """The record of a container."""
        return self._records.get((pod_uid, container, resource))

    def with_ids(self, resource: str, ids: Collection[str]) -> tuple[Record, ...]:
        """The records that were made for exactly these ids."""
        wanted = frozenset(ids)
        return tuple(r for r in self if r.resource == resource and r.ids == wanted)

    def put(self, *records: Record) -> None:
        """Remember these, in place of what was known of the same containers, and write.

        Raises `OSError` when the file cannot be written; nothing is remembered then.
        """
        with self._changing():
            self._commit({**self._records, **{record.key: record for record in records}})

    def remove(self, records: Iterable[Record]) -> None:
        """Forget these, and write. Raises as `put`."""
        gone = {record.key for record in records}
        with self._changing():
            self._commit({k: r for k, r in self._records.items() if k not in gone})

    @property
    def is_current(self) -> bool:
        """Whether nobody else has written since the records were read: one look at the file."""
        try:
            return _identity(self._path.stat()) == self._seen
        except OSError:
            return False

    def refresh(self) -> None:
        """Take in what another agent wrote. A file that is gone or damaged tells nothing."""
        with self._writing:
            self._take_in()

    def load(self) -> None:
        """Read what an agent before us knew; a missing file means nothing.

        Raises `LedgerError` for a file that is not ours, damaged, or from a version to come; the
        ledger is empty then.
        """
        with self._writing:
            self._records, self._seen = {}, None
            try:
                for litter in self._path.parent.glob(f".{self._path.name}.*"):
                    litter.unlink(missing_ok=True)
                self._read()
            except FileNotFoundError:
                return
            except OSError as error:
                raise LedgerError(f"{self._path}: not readable: {error}") from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One thread of one agent at a time, and each knows what the others did."""
        folder = self._path.parent
        with self._writing:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._take_in()
                yield
            finally:
                os.close(descriptor)

    def _take_in(self) -> None:
        with contextlib.suppress(OSError, LedgerError):
            if _identity(self._path.stat()) != self._seen:
                self._read()

    def _read(self) -> None:
        """Raises `LedgerError`, and `OSError` where the file cannot be read."""
        with self._path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size > MAX_BYTES:
                raise LedgerError(f"{self._path}: larger than {MAX_BYTES} bytes")
            try:
                document = json.loads(file.read())
            except (ValueError, RecursionError) as error:
                raise LedgerError(f"{self._path}: not readable: {error}") from None
        self._records = {record.key: record for record in self._parse(document)}
        self._seen = _identity(state)

    def _parse(self, document: Any) -> list[Record]:
        try:
            version, stated, data = document["version"], document["checksum"], document["grants"]
            if version != VERSION:
                raise LedgerError(f"{self._path}: version {version!r:.20}, this reads {VERSION}")
            if stated != _checksum(",".join(map(_canonical, data))):
                raise LedgerError(f"{self._path}: the checksum does not fit the content")
            return [_record(item) for item in data]
        except (KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{self._path}: not a grants file: {error!r}") from None

    def _commit(self, records: dict[tuple[str, str, str], Record]) -> None:
        # The texts of records that stay are kept: most writes change one of many.
        texts = {r: self._texts.get(r) or _text(r) for r in records.values()}
        listed = ",".join(texts.values())
        content = f'{{"version":{VERSION},"checksum":"{_checksum(listed)}","grants":[{listed}]}}'
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                written = _identity(os.fstat(file.fileno()))
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._records, self._texts, self._seen = records, texts, written


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return (state.st_ino, state.st_mtime_ns, state.st_size)


def _text(record: Record) -> str:
    return _canonical({**asdict(record), "ids": sorted(record.ids)})


def _canonical(item: Mapping[str, Any]) -> str:
    return json.dumps(item, sort_keys=True, separators=(",", ":"))


def _record(item: Mapping[str, Any]) -> Record:
    return Record(
        **{
            **item,
            "ids": frozenset(item["ids"]),
            "shares": tuple(Share(**share) for share in item["shares"]),
        }
    )


def _checksum(listed: str) -> str:
    return hashlib.sha256(listed.encode()).hexdigest()
