"""The page on configuration is what the command says."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from deviceplugin.cli.main import cli


def test_every_option_stands_on_the_page_as_it_is() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    told = CliRunner().invoke(cli, ["config", "options"]).output
    assert told in page.read_text(), "run `deviceplugin config options` and put it on the page"
