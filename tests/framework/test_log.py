"""One event is one line: JSON for machines, words for people, and libraries speak the same way."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys
from deviceplugin.log import setup
setup(level={level!r}, form={form!r})
import structlog
log = structlog.get_logger().bind(vendor="acme")
log.debug("quiet")
log.info("device found", device="GPU-1", odd=b"\\xff", half="\\ud800", deep={{1: {{2}}}})
logging.getLogger("grpc").warning("stream %s broke", 7)
logging.getLogger("grpc").info("chatter")
logging.getLogger("grpc").warning("wrong %d", "arguments")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("vendor failed")
    logging.getLogger("asyncio").exception("task failed")
log.info("done", rich="rich" in sys.modules)
"""


def lines(form: str, level: str = "info") -> list[str]:
    program = PROGRAM.format(form=form, level=level)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_has_one_object_a_line_also_for_libraries_and_exceptions() -> None:
    said = [json.loads(line) for line in lines("json")]
    by_event = {entry["event"]: entry for entry in said}
    assert by_event["device found"]["vendor"] == "acme"
    assert by_event["device found"]["level"] == "info"
    assert by_event["stream 7 broke"] | {"timestamp": ""} == {
        "event": "stream 7 broke",
        "level": "warning",
        "library": "grpc",
        "timestamp": "",
    }
    assert "ZeroDivisionError" in by_event["vendor failed"]["exception"]
    assert "ZeroDivisionError" in by_event["task failed"]["exception"]
    assert by_event["task failed"]["library"] == "asyncio"
    assert "wrong %d ('arguments',)" in by_event
    assert "chatter" not in by_event
    assert "quiet" not in by_event
    assert by_event["done"]["rich"] is False


def test_a_terminal_gets_words() -> None:
    said = "\n".join(lines("console", "debug"))
    assert "device found" in said
    assert "vendor=acme" in said
    assert "quiet" in said
    assert '{"' not in said


def test_without_a_terminal_the_automatic_form_is_json() -> None:
    assert json.loads(lines("auto")[0])["event"] == "device found"


def test_setting_up_twice_does_not_tell_twice() -> None:
    program = "import logging; from deviceplugin.log import setup; setup(); setup()"
    say = "logging.getLogger('grpc').error('once')"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; {say}"], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("once") == 1
