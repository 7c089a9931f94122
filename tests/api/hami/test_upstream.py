"""HAMi's own code and ours, asked the same questions.

A small Go program that links HAMi's packages reads one request a line and answers one line; what it
answered is kept in ``vectors/``, one file for each version, and always compared. To ask the program
itself, and some ten thousand fresh questions, name it::

    HAMI_CODECS=/path/to/program pytest tests/api/hami/test_upstream.py

(``HAMI_CODECS_VERSION``, v2.8.0 if not said, is the version of the packages that it links, and
``HAMI_CODECS_QUESTIONS`` how many of each kind are asked.)
``python tests/api/hami/test_upstream.py PROGRAM VERSION`` records anew. The requests are

====================== ============================ ============================================
``Op``                 takes                        answers
====================== ============================ ============================================
register_encode        Devices                      json, common (without vendor facts), legacy
register_decode_json   Text                         devices, every field of them
register_decode_legacy Text                         devices, every field of them
scores_encode          Devices                      text
scores_decode          Text                         cards
pod_encode             Devices                      text
pod_decode             Text                         containers
mig                    Text (a uuid)                geometry, position
lock_decode            Text                         unix, namespace, name
lock_encode            Namespace, Name              text, of the present time
times                  Unix, Nanos, East (seconds)  string, datetime, dots, rfc3339, rfc3339nano
health                 Text, Allocatable            healthy, update, after (of the handshake)
====================== ============================ ============================================

and ``error`` or ``panic`` instead, where HAMi refuses or crashes. ``Unix`` of a health request is
when it was asked.

Agreement is this: what ours accepts, HAMi reads as the same values; what HAMi's own encoders make of
sound values, ours accepts and writes to the same byte. Ours refuses more, see
``docs/compatibility.md``.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.api.hami import handshake, nodelock, poddevices, register, scores
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.handshake import Action
from deviceplugin.api.hami.nodelock import NodeLock
from deviceplugin.api.hami.poddevices import ContainerDevice, MigSlot, PodDevices
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.hami.scores import PairScores

PROGRAM = os.environ.get("HAMI_CODECS", "")
QUESTIONS = int(os.environ.get("HAMI_CODECS_QUESTIONS", "1500"))
"""Of each kind."""
VECTORS = Path(__file__).parent / "vectors"
KEY = "hami.io/the-annotation"

Request = dict[str, Any]
Answer = dict[str, Any]

# Questions.

ALPHABET = "abcXYZ019-_. /<>&\"'\\éß€中\u2028\u2029\U0001f600"
SPOILERS = [
    *',:;[]{}"-+._0 9ex',
    "null",
    "true",
    "1.5",
    "99999999999",
    "\\u0041",
    "[1-0]",
    "::",
    ";;",
]


def word(chance: random.Random, without: str = "", least: int = 1) -> str:
    letters = [letter for letter in ALPHABET if letter not in without]
    return "".join(chance.choice(letters) for _ in range(chance.randint(least, 14)))


def amount(chance: random.Random) -> int:
    return chance.choice(
        [0, 1, 100, 2**31 - 1, chance.randint(0, 2**31 - 1), chance.randint(0, 99)]
    )


def fact(chance: random.Random, depth: int = 2) -> Any:
    match chance.randrange(7 if depth else 5):
        case 0:
            return word(chance, least=0)
        case 1:
            return chance.choice([True, False, None])
        case 2:
            return chance.randint(-(2**53), 2**53)
        case 3:
            return chance.uniform(-1, 1) * 10.0 ** chance.randint(-30, 30)
        case 4:
            return float(chance.randint(-5, 5))
        case 5:
            return [fact(chance, depth - 1) for _ in range(chance.randint(0, 3))]
        case _:
            return {word(chance): fact(chance, depth - 1) for _ in range(chance.randint(0, 3))}


def pair_scores(chance: random.Random) -> PairScores:
    return PairScores(
        word(chance), {word(chance): amount(chance) for _ in range(chance.randint(0, 4))}
    )


def node_device(chance: random.Random) -> NodeDevice:
    return NodeDevice(
        uuid=word(chance),
        count=amount(chance),
        memory=amount(chance),
        cores=amount(chance),
        type=word(chance, least=0),
        healthy=chance.random() < 0.8,
        numa=chance.choice([-1, amount(chance)]),
        index=amount(chance),
        mode=chance.choice(["", "hami-core", "mig", word(chance)]),
        vendor=chance.choice(["", word(chance)]),
        custom={word(chance): fact(chance) for _ in range(chance.choice([0, 0, 1, 3]))},
        pair_scores=chance.choice([None, pair_scores(chance)]),
    )


def container_device(chance: random.Random) -> ContainerDevice:
    slot = MigSlot(chance.randint(0, 9), chance.randint(0, 9)) if chance.random() < 0.3 else None
    return ContainerDevice(word(chance), word(chance), amount(chance), amount(chance), slot)


def pod_devices(chance: random.Random) -> PodDevices:
    return tuple(
        tuple(container_device(chance) for _ in range(chance.choice([0, 1, 1, 2, 4])))
        for _ in range(chance.randint(0, 5))
    )


def spoiled(chance: random.Random, text: str) -> str:
    """The same, or with a few things changed that ought to be noticed."""
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        start = chance.randint(0, len(text))
        end = start + chance.choice([0, 1, 1, 4])
        text = text[:start] + chance.choice(["", *SPOILERS]) + text[end:]
    return text


def go_device(device: NodeDevice) -> dict[str, Any]:
    pairs = device.pair_scores
    return {
        "id": device.uuid,
        "index": device.index,
        "count": device.count,
        "devmem": device.memory,
        "devcore": device.cores,
        "type": device.type,
        "numa": device.numa,
        "mode": device.mode,
        "health": device.healthy,
        "devicevendor": device.vendor,
        "custominfo": device.custom,
        "devicepairscore": {"uuid": pairs.uuid, "score": pairs.scores} if pairs else {},
    }


def go_container_device(device: ContainerDevice) -> dict[str, Any]:
    uuid = f"{device.uuid}{device.slot or ''}"
    return {"UUID": uuid, "Type": device.type, "Usedmem": device.memory, "Usedcores": device.cores}


def handshake_text(chance: random.Random, now: datetime) -> str:
    at = now - timedelta(seconds=chance.choice([0, 10, 20, 120, 600, 10**6, -20]))
    return chance.choice(
        [
            f"Requesting_{at:%Y-%m-%d %H:%M:%S}",
            f"Deleted_{at:%Y-%m-%d %H:%M:%S}",
            f"Reported {at:%Y-%m-%d %H:%M:%S}.123 +0000 UTC m=+1.5",
            f"Reported_{at:%Y.%m.%d %H:%M:%S}",
            "",
            "Unknown",
        ]
    )


def questions(kind: str, chance: random.Random) -> Iterator[Request]:
    """Requests of one kind, without end."""
    while True:
        now = datetime.fromtimestamp(int(time.time()), UTC)
        devices = [node_device(chance) for _ in range(chance.randint(0, 4))]
        plain = [
            replace(each, type=word(chance, ",:"), mode=word(chance, ",:")) for each in devices
        ]
        cards = [pair_scores(chance) for _ in range(chance.randint(0, 4))]
        pod = pod_devices(chance)
        at = datetime.fromtimestamp(chance.randint(0, 2**32), UTC)
        match kind:
            case "register_encode":
                chosen = chance.choice([devices, plain])
                yield {"Devices": [go_device(each) for each in chosen]}
            case "register_decode_json":
                yield {"Text": spoiled(chance, register.encode(devices))}
            case "register_decode_legacy":
                text = register.encode_legacy(plain)
                shorter = text.replace(",0,hami-core:", ":") if chance.random() < 0.3 else text
                yield {"Text": spoiled(chance, shorter)}
            case "scores_encode":
                yield {"Devices": [{"uuid": each.uuid, "score": each.scores} for each in cards]}
            case "scores_decode":
                yield {"Text": spoiled(chance, scores.encode(cards))}
            case "pod_encode":
                yield {"Devices": [[go_container_device(each) for each in part] for part in pod]}
            case "pod_decode":
                yield {"Text": spoiled(chance, poddevices.encode(pod, KEY))}
            case "mig":
                yield {
                    "Text": spoiled(chance, f"{word(chance)}[{amount(chance)}-{amount(chance)}]")
                }
            case "lock_decode":
                zone = timezone(timedelta(minutes=chance.choice([0, 330, -480])))
                lock = NodeLock(at.astimezone(zone), *chance.choice([(), ("ns", "pod-0.a")]))
                yield {"Text": spoiled(chance, nodelock.encode(lock))}
            case "lock_encode":
                yield {"Namespace": "default", "Name": f"train-{chance.randint(0, 99)}"}
            case "times":
                east = 60 * chance.randint(-14 * 60, 14 * 60)
                yield {
                    "Unix": int(at.timestamp()),
                    "Nanos": chance.randint(0, 999999999),
                    "East": east,
                }
            case "health":
                count = chance.choice([0, 0, 8])
                yield {
                    "Text": handshake_text(chance, now),
                    "Allocatable": count,
                    "Unix": int(now.timestamp()),
                }


# Answers.


def same(ours: object, theirs: object) -> None:
    assert ours == theirs, f"\nours   {ours!r}\ntheirs {theirs!r}"


def check_register_encode(request: Request, answer: Answer, version: str) -> str:
    devices = register.decode(json.dumps(request["Devices"]), KEY)
    common = [replace(each, vendor="", custom={}, pair_scores=None) for each in devices]
    same(
        register.decode(answer["json"], KEY), tuple(_as_written(each, version) for each in devices)
    )
    if version.startswith("v2.8"):
        same(register.encode(devices, KEY), answer["json"])
        same(register.encode(common, KEY), answer["common"])
    separators = any(separator in each.type + each.mode for each in devices for separator in ",:")
    if not separators:
        same(register.encode_legacy(devices, KEY), answer["legacy"])
    return "same"


def _as_written(device: NodeDevice, version: str) -> NodeDevice:
    return device if version.startswith("v2.8") else replace(device, pair_scores=None)


def check_register_decode(request: Request, answer: Answer, version: str) -> str:
    def shown(device: NodeDevice) -> dict[str, Any]:
        pairs = device.pair_scores or PairScores("", {})
        kept = pairs if version.startswith("v2.8") else PairScores("", {})
        return {
            "uuid": device.uuid, "index": device.index, "count": device.count, "memory": device.memory,
            "cores": device.cores, "type": device.type, "numa": device.numa, "mode": device.mode,
            "healthy": device.healthy, "vendor": device.vendor, "custom": _plain(device.custom),
            "pair_uuid": kept.uuid, "pair_scores": dict(kept.scores),
        }  # fmt: skip

    def theirs() -> list[dict[str, Any]]:
        maps = ("custom", "pair_scores")
        return [
            {**each, **{key: _plain(each[key] or {}) for key in maps}} for each in answer["devices"]
        ]

    def ours(text: str) -> list[dict[str, Any]]:
        return [shown(device) for device in register.decode(text, KEY)]

    is_json = request["Text"].lstrip(" \t\r\n").startswith("[")
    if is_json != (request["Op"] == "register_decode_json"):
        return "not asked"  # HAMi chooses the form by the vendor, ours by the text
    return both(lambda: ours(request["Text"]), theirs, answer)


def check_scores_encode(request: Request, answer: Answer, version: str) -> str:
    cards = tuple(PairScores(each["uuid"], each["score"]) for each in request["Devices"])
    same(scores.encode(cards, KEY), answer["text"])
    same(scores.decode(answer["text"], KEY), cards)
    return "same"


def check_scores_decode(request: Request, answer: Answer, version: str) -> str:
    return both(
        lambda: [(card.uuid, dict(card.scores)) for card in scores.decode(request["Text"], KEY)],
        lambda: [(card["uuid"], card["scores"] or {}) for card in answer["cards"]],
        answer,
    )


def check_pod_encode(request: Request, answer: Answer, version: str) -> str:
    pod = poddevices.decode(answer["text"], KEY)
    same(poddevices.encode(pod, KEY), answer["text"])
    same([[go_container_device(each) for each in part] for part in pod], request["Devices"])
    return "same"


def check_pod_decode(request: Request, answer: Answer, version: str) -> str:
    """Version 2.8 drops containers without devices, version 2.10 adds one at the end."""

    def shown(device: Mapping[str, Any]) -> tuple[object, ...]:
        return device["UUID"], device["Type"], device["Usedmem"], device["Usedcores"]

    def ours() -> list[list[tuple[object, ...]]]:
        pod = poddevices.decode(request["Text"], KEY)
        keep = pod if not version.startswith("v2.8") else tuple(filter(None, pod))
        return [[shown(go_container_device(each)) for each in part] for part in keep]

    def theirs() -> list[list[tuple[object, ...]]]:
        parts = [[shown(each) for each in part if each["UUID"]] for part in answer["containers"]]
        if version.startswith("v2.8"):
            return [part for part in parts if part]
        ended = request["Text"].endswith(";") or not request["Text"]
        return parts[:-1] if ended else parts

    return both(ours, theirs, answer)


def check_mig(request: Request, answer: Answer, version: str) -> str:
    def ours() -> tuple[int, int]:
        ((device,),) = poddevices.decode(f"{request['Text']},NVIDIA,1,1:;", KEY)
        if device.slot is None:
            raise AnnotationError(KEY, "no slot", "give one")
        return device.slot.geometry, device.slot.position

    if any(separator in request["Text"] for separator in ",:;"):
        return "not asked"
    return both(ours, lambda: (answer["geometry"], answer["position"]), answer)


def check_lock_decode(request: Request, answer: Answer, version: str) -> str:
    def ours() -> tuple[int, str, str]:
        lock = nodelock.decode(request["Text"], KEY)
        return int(lock.at.timestamp() // 1), lock.namespace, lock.name

    return both(ours, lambda: (answer["unix"], answer["namespace"], answer["name"]), answer)


def check_lock_encode(request: Request, answer: Answer, version: str) -> str:
    lock = nodelock.decode(answer["text"], KEY)
    same((lock.namespace, lock.name), (request["Namespace"], request["Name"]))
    same(nodelock.encode(lock, KEY), answer["text"])
    return "same"


def check_times(request: Request, answer: Answer, version: str) -> str:
    at = datetime.fromtimestamp(request["Unix"], UTC)
    east = timezone(timedelta(seconds=request["East"]))
    local = at.astimezone(east).replace(tzinfo=None)
    for text, expected in (
        (f"Reported {answer['string']}", at),
        (f"Reported {answer['string']} m=+1.000000001", at),
        (f"Requesting_{answer['datetime']}", local),
        (f"Reported_{answer['dots']}", local),
    ):
        found = handshake.decode(text)
        same(found and found.at, expected)
    same(nodelock.encode(NodeLock(at.astimezone(east)), KEY), answer["rfc3339"])
    same(nodelock.decode(answer["rfc3339"], KEY).at, at)
    same(nodelock.decode(answer["rfc3339nano"], KEY).at.replace(microsecond=0), at)
    return "same"


def check_health(request: Request, answer: Answer, version: str) -> str:
    """Where ours means to differ is not compared: an old deletion, and version 2.8's deafness to
    what kubelet says. Version 2.10 knows no deletions.
    """
    text, count = request["Text"], request["Allocatable"]
    deleted, deaf = text.startswith("Deleted"), version.startswith("v2.8") and count
    if deaf or (deleted and not version.startswith("v2.8")):
        return "not asked"
    verdict = handshake.judge(text, datetime.fromtimestamp(request["Unix"], UTC), allocatable=count)
    expected = {Action.KEEP: (True, False), Action.LOAD: (True, True), Action.DROP: (False, False)}
    same(expected[verdict.action], (answer["healthy"], answer["update"]))
    if verdict.action is not Action.DROP:
        after = handshake.decode(answer["after"]) if answer["after"] != text else None
        same(verdict.write and verdict.write.state, after and after.state)
    return "same"


CHECKS: dict[str, Callable[[Request, Answer, str], str]] = {
    "register_encode": check_register_encode,
    "register_decode_json": check_register_decode,
    "register_decode_legacy": check_register_decode,
    "scores_encode": check_scores_encode,
    "scores_decode": check_scores_decode,
    "pod_encode": check_pod_encode,
    "pod_decode": check_pod_decode,
    "mig": check_mig,
    "lock_decode": check_lock_decode,
    "lock_encode": check_lock_encode,
    "times": check_times,
    "health": check_health,
}


def both(ours: Callable[[], object], theirs: Callable[[], object], answer: Answer) -> str:
    """Ours may refuse what HAMi reads, but never read what HAMi refuses, nor read it differently."""
    refused = "error" in answer or "panic" in answer
    try:
        value = ours()
    except AnnotationError:
        return "both refuse" if refused else "ours refuses"
    assert not refused, f"ours reads {value!r}, theirs {answer}"
    same(value, theirs())
    return "same"


def _plain(value: Any) -> Any:
    """Frozen JSON as Python's own reader gives it, large numbers as floating-point."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return float(value) if type(value) is int and abs(value) > 2**53 else value


# Recorded and fresh.


def ask(program: str, requests: Sequence[Request]) -> list[Answer]:
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(
        [program],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env={"TZ": "UTC"},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def asked(
    program: str, kind: str, chance: random.Random, number: int
) -> Iterator[tuple[Request, Answer]]:
    """Fresh questions with their answers, soon after each other: some of them go by the clock."""
    source = ({"Op": kind, **request} for request in questions(kind, chance))
    for start in range(0, number, 1000):
        requests = list(itertools.islice(source, min(1000, number - start)))
        yield from zip(requests, ask(program, requests), strict=True)


def recorded() -> list[Path]:
    return sorted(VECTORS.glob("*.json"))


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)
def test_what_upstream_once_answered_is_our_answer_too(path: Path, kind: str) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    results = Counter(
        CHECKS[kind](request, answer, kept["version"])
        for request, answer in kept["answers"]
        if request["Op"] == kind
    )
    assert results["same"] > 10, results


def test_two_versions_are_recorded() -> None:
    assert [path.stem for path in recorded()] == ["v2.10.0", "v2.8.0"]


@pytest.mark.skipif(not PROGRAM, reason="HAMI_CODECS names no program with HAMi's own codecs")
@pytest.mark.parametrize("kind", CHECKS)
def test_upstream_itself_agrees(kind: str) -> None:
    version = os.environ.get("HAMI_CODECS_VERSION", "v2.8.0")
    results: Counter[str] = Counter()
    for request, answer in asked(PROGRAM, kind, random.Random(), QUESTIONS):
        try:
            results[CHECKS[kind](request, answer, version)] += 1
        except (AssertionError, AnnotationError) as error:
            raise AssertionError(f"{request}\n{answer}\n{error}") from error
    print(f"\n{version} {kind}: {dict(results)}")
    assert results["same"] > QUESTIONS / 10


def record(program: str, version: str) -> None:
    """Ask some of each kind and keep the answers."""
    chance = random.Random(version)
    pairs = (pair for kind in CHECKS for pair in asked(program, kind, chance, 60))
    lines = ",\n".join(json.dumps(pair) for pair in pairs)
    text = f'{{"version": "{version}", "answers": [\n{lines}\n]}}\n'
    (VECTORS / f"{version}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    record(*sys.argv[1:])
