"""``flask referral doctor``."""

from __future__ import annotations

import dataclasses
import textwrap

import click
from flask import current_app
from flask.cli import with_appcontext

from .. import doctor as station
from ..doctor import Finding
from ..doctor import Level
from .group import json_option
from .group import report
from .group import state

_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "red"}
_INDENT = " " * 13


@click.command()
@json_option
@click.pass_context
@with_appcontext
def doctor(context: click.Context, as_json: bool) -> None:
    """Say what is wrong and how to mend it; ends with 1 where there is a fault."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    findings = list(station.examine(app, state()))
    data = [dataclasses.asdict(finding) for finding in findings]
    report(as_json, data, "\n".join([*map(_text, findings), "", _summary(findings)]))
    context.exit(int(_count(findings, Level.FAULT) > 0))


def _text(finding: Finding) -> str:
    label = click.style(finding.level.ljust(len(_INDENT)), fg=_COLORS.get(finding.level))
    lines = [label + finding.message]
    if finding.cure:
        lines.append(f"{_INDENT}{finding.cure}")
    if finding.detail:
        lines.append(textwrap.indent(finding.detail, _INDENT + "    "))
    return "\n".join(lines)


def _summary(findings: list[Finding]) -> str:
    parts = [
        f"{number} {level}{'s' if number > 1 else ''}"
        for level in (Level.FAULT, Level.WARNING)
        if (number := _count(findings, level))
    ]
    return f"Found {' and '.join(parts)}." if parts else "Healthy: nothing is wrong."


def _count(findings: list[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)
