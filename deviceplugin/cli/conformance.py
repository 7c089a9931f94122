"""``deviceplugin conformance``: whether a vendor keeps what every vendor promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from deviceplugin.testing.conformance.model import Result

OK, BROKEN, UNUSABLE = 0, 1, 2


@click.command()
@click.argument("vendor", metavar="VENDOR", required=False)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The node that stands for hardware, as `deviceplugin record` writes it; default the "
    "vendor's own.",
)
@click.option(
    "--section",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A YAML file with the vendor's section of the configuration.",
)
@click.option("--check", "only", multiple=True, metavar="ID", help="Only this check; repeatable.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.option("--list", "listing", is_flag=True, help="List the checks and run none.")
def conformance(
    vendor: str | None,
    profile: Path | None,
    section: Path | None,
    only: tuple[str, ...],
    output: str,
    listing: bool,
) -> None:
    """Check a vendor's module against the contract, without its hardware.

    VENDOR is the name of an installed vendor, a module with VENDOR in it, or module:ATTRIBUTE.
    Exit codes: 0 all promises are kept, 1 some are broken, 2 the vendor or profile is unusable.
    """
    from deviceplugin.testing.conformance.checks import CHECKS
    from deviceplugin.testing.conformance.run import run
    from deviceplugin.testing.conformance.subject import SubjectError, section_in, subject

    known = {check.id: check for check in CHECKS}
    if strange := [name for name in only if name not in known]:
        raise click.UsageError(f"no check {strange[0]!r}; there are {', '.join(known)}")
    chosen = [check for check in CHECKS if not only or check.id in only]
    if listing:
        for check in chosen:
            click.echo(f"{check.id:17} {check.what}")
        return
    if vendor is None:
        raise click.UsageError("name a vendor, or say --list for what is checked")
    try:
        found = subject(vendor, profile, section_in(section) if section else None)
        results = []
        for result in run(found, chosen):
            results.append(result)
            if output == "text":
                _tell(result)
    except SubjectError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(UNUSABLE)
    if output == "json":
        click.echo(json.dumps(_report(found.vendor.name, results), indent=2))
    else:
        click.echo(f"{found.vendor.name}: {_summary(results)}")
    sys.exit(BROKEN if any(result.failed for result in results) else OK)


def _tell(result: Result) -> None:
    check = result.check
    if result.failed:
        click.echo(click.style(f"✗ {check.id:17} {check.what}", fg="red"))
        for line in result.wrong:
            click.echo(f"    {line}")
        click.echo(f"    Otherwise: {check.why}.")
    elif result.skipped:
        click.echo(click.style(f"- {check.id:17} not checked: {result.skipped}", dim=True))
    else:
        click.echo(f"✓ {check.id:17} {check.what}")


def _summary(results: Iterable[Result]) -> str:
    results = list(results)
    failed = sum(result.failed for result in results)
    skipped = sum(bool(result.skipped) for result in results)
    kept = len(results) - failed - skipped
    return f"{kept} promises kept, {failed} broken, {skipped} not checked"


def _report(vendor: str, results: Iterable[Result]) -> dict[str, Any]:
    return {
        "vendor": vendor,
        "checks": [
            {
                "id": result.check.id,
                "promise": result.check.what,
                "why": result.check.why,
                "result": "broken" if result.failed else "skipped" if result.skipped else "kept",
                "wrong": list(result.wrong),
                "skipped": result.skipped,
            }
            for result in results
        ],
    }
