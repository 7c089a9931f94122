"""The conformance checks as tests of your own suite: write

    def test_conformance(conformance_check):
        conformance_check()

and name the vendor in pytest's configuration: ``deviceplugin_vendor = acme``; beside it, where the
vendor brings no profile, ``deviceplugin_profile = path/to/profile.yaml``, and where it is examined
with a configuration, ``deviceplugin_section = path/to/section.yaml``. Each check is one test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FIXTURE = "conformance_check"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings; nothing is imported for those who do not use them."""
    parser.addini("deviceplugin_vendor", "the device-plugin vendor that is to conform", default="")
    parser.addini("deviceplugin_profile", "the node that stands for its hardware", default="")
    parser.addini("deviceplugin_section", "its part of the configuration, in a file", default="")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a check."""
    if FIXTURE not in metafunc.fixturenames:
        return
    from deviceplugin.testing.conformance.checks import CHECKS

    ids = [check.id for check in CHECKS]
    metafunc.parametrize(FIXTURE, CHECKS, ids=ids, indirect=True)


@pytest.fixture
def conformance_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Runs one check of the configured vendor."""
    from deviceplugin.testing.conformance.run import examined
    from deviceplugin.testing.conformance.subject import section_in, subject

    def named(setting: str) -> Path | None:
        path = request.config.getini(setting)
        return request.config.rootpath / path if path else None

    name = request.config.getini("deviceplugin_vendor")
    if not name:
        pytest.fail("name the vendor: deviceplugin_vendor = NAME in pytest's configuration")
    section = named("deviceplugin_section")
    found = subject(name, named("deviceplugin_profile"), section_in(section) if section else None)

    def run() -> None:
        result = examined(found, request.param)
        if result.failed:
            pytest.fail("\n".join([*result.wrong, f"Otherwise: {result.check.why}."]), False)
        if result.skipped:
            pytest.skip(result.skipped)

    return run
