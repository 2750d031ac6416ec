"""``flask referral rls …``: the rights that row level security needs."""

from __future__ import annotations

import dataclasses

import click
from flask.cli import AppGroup

from ..rls import grants
from .group import json_option
from .group import report
from .group import state

rls = AppGroup("rls", help="Set up row level security (PostgreSQL).")


@rls.command()
@click.option(
    "--user-role",
    required=True,
    metavar="ROLE",
    help="The role that acting_as() takes; it sees one user's rows.",
)
@click.option(
    "--service-role",
    metavar="ROLE",
    help="The application's login, where that is not the owner; it sees all rows.",
)
@json_option
def grant(user_role: str, service_role: str | None, as_json: bool) -> None:
    """Grant two existing roles what they need.

    Run it as the owner of the tables; it may be repeated.
    """
    current = state()
    with current.engine.connect() as connection:
        # All or nothing, also where the application's engine is in AUTOCOMMIT.
        connection.execution_options(isolation_level=connection.default_isolation_level)
        with connection.begin():
            granted = grants.grant(connection, current.models, user_role, service_role)
    lines = [f"{sql};" for sql in granted.statements]
    if current.settings.rls_role != user_role:
        lines.append(f"Done. Set REFERRAL_RLS_ROLE to {user_role!r} to use it.")
    report(as_json, dataclasses.asdict(granted), "\n".join(lines))
