"""``flask referral doctor``."""

from __future__ import annotations

import dataclasses
import textwrap

import click
from flask.cli import with_appcontext
from flask.globals import app_ctx

from .. import doctor as station
from ..doctor import Finding
from ..doctor import Level
from .group import json_option
from .group import report
from .group import state
from .terminal import printable

_COLORS = {Level.ok: "green", Level.warning: "yellow", Level.fault: "red"}
_INDENT = " " * 13


@click.command()
@json_option
@click.pass_context
@with_appcontext
def doctor(context: click.Context, as_json: bool) -> None:
    """Say what is wrong and how to mend it; ends with 1 where there is a fault."""
    findings = list(station.examine(app_ctx.app, state()))
    data = [dataclasses.asdict(finding) for finding in findings]
    if as_json:
        report(as_json, data, "")
    else:
        # Its colours are ours.
        click.echo("\n".join([*map(_text, findings), "", _summary(findings)]))
    context.exit(int(_count(findings, Level.fault) > 0))


def _text(finding: Finding) -> str:
    label = click.style(
        finding.level.replace("_", " ").ljust(len(_INDENT)), fg=_COLORS.get(finding.level)
    )
    lines = [label + printable(finding.message)]
    if finding.cure:
        lines.append(f"{_INDENT}{printable(finding.cure)}")
    if finding.detail:
        lines.append(textwrap.indent(printable(finding.detail, keep="\n\t"), _INDENT + "    "))
    return "\n".join(lines)


def _summary(findings: list[Finding]) -> str:
    parts = [
        f"{number} {level}{'s' if number > 1 else ''}"
        for level in (Level.fault, Level.warning)
        if (number := _count(findings, level))
    ]
    return f"Found {' and '.join(parts)}." if parts else "Healthy: nothing is wrong."


def _count(findings: list[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)
