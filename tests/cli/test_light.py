"""What a command does not need it does not load: people wait for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from deviceplugin.cli.main import cli
try:
    cli({arguments!r})
except SystemExit as end:
    print("code", end.code, file=sys.stderr)
print(",".join(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["version"], {"asyncio", "grpc", "structlog", "yaml", "rich", "kubernetes"}),
        (
            ["devices", "--vendors", "mock"],
            {"grpc", "structlog", "prometheus_client", "deviceplugin.agent", "kubernetes"},
        ),
    ],
    ids=["version", "devices"],
)
def test_a_command_loads_only_what_it_needs(arguments: list[str], heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, modules = done.stderr.splitlines()[-2:]
    assert code == "code 0"
    assert heavy & set(modules.split(",")) == set()
