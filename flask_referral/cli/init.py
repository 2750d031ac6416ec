"""``flask referral init``: what an application still lacks, ready to be taken over."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext
from flask.globals import app_ctx

from .. import doctor
from .. import wallet
from ..doctor import Finding
from ..doctor import Level
from ..errors import ReferralError
from ..host.state import State
from ..schema.balance_trigger import balance_trigger
from ..schema.balance_trigger import obstacle
from .group import json_option
from .group import report
from .group import state

#: What doctor has to say before an application has its first code.
CHECKS = (
    "identity",
    "secret-key",
    "share-links",
    "database",
    "user-table",
    "migrations",
    "wallet",
    "wallet-trigger",
)
MIGRATE = """\
# Where the application makes its Migrate object: "flask db migrate" leaves the referral tables to
# "flask referral db upgrade". With an include_object of your own, ask both.
from flask_migrate import Migrate

from flask_referral import schema

migrate = Migrate(include_object=schema.include_object)
"""
SETTINGS = {
    "secret-key": (
        "# A secret of its own, as made by python -c 'import secrets; print(secrets.token_hex(32))'"
        '\nSECRET_KEY = os.environ["SECRET_KEY"]\n'
    ),
    "share-links": ('# What share links begin with.\nREFERRAL_BASE_URL = "https://your.site"\n'),
}
TRIGGER = """\
-- In a migration of the application's own, after the wallet's table:
-- op.execute(Path("referral_trigger.sql").read_text())
"""
INSTEAD = """\
-- In place of the trigger that is there, which takes no lock: drop it and its function first.
"""


@click.command()
@click.option(
    "--write",
    "folder",
    is_flag=False,
    flag_value=".",
    metavar="[FOLDER]",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files into FOLDER (default: here), never over one.",
)
@json_option
@with_appcontext
def init(folder: Path | None, as_json: bool) -> None:
    """Print what this application still lacks; what is there already is not printed."""
    current = state()
    lacking = [
        finding
        for finding in doctor.examine(app_ctx.app, current, CHECKS)
        if finding.level is not Level.ok
    ]
    if current.wallet_table is not None and any(each.check == "wallet-trigger" for each in lacking):
        problem = obstacle(current.wallet_table, current.engine.dialect.name)
        if problem is not None:
            lacking.append(
                Finding(
                    Level.fault,
                    problem,
                    "Change that in the model and in a migration of the application's own.",
                    check="wallet-columns",
                )
            )
    files = dict(_files(current, {finding.check: finding.level for finding in lacking}))
    written = [] if folder is None else _write(folder, files)
    data = {
        "missing": [dataclasses.asdict(finding) for finding in lacking],
        "files": files,
        "written": written,
    }
    report(as_json, data, "\n".join(_lines(lacking, files, written)) or "Nothing is missing.")


def _files(current: State, lacking: dict[str, Level]) -> t.Iterator[tuple[str, str]]:
    """Yield the names and texts of what the host can take over."""
    # With our tables in the database, autogenerate finds nothing to make.
    if "migrations" in lacking and not _leaves_ours(current):
        yield "referral_migrate.py", MIGRATE
    if "wallet-trigger" in lacking and "wallet-columns" not in lacking:
        one_is_there = lacking["wallet-trigger"] is Level.warning
        head = TRIGGER + (INSTEAD if one_is_there else "")
        yield "referral_trigger.sql", head + _trigger(current, lacking)
    settings = [text for check, text in SETTINGS.items() if check in lacking]
    if settings:
        start = ["import os\n"] if "secret-key" in lacking else []
        yield "referral_settings.py", "\n".join([*start, *settings])


def _leaves_ours(current: State) -> bool:
    """Whether the host's autogenerate leaves our tables alone."""
    migrate = current_app.extensions.get("migrate")
    include = getattr(migrate, "configure_args", {}).get("include_object")
    table = current.models.ReferralCode.__table__
    return include is not None and not include(table, table.name, "table", False, None)


def _trigger(current: State, lacking: dict[str, Level]) -> str:
    table = current.wallet_table
    assert table is not None
    may_lock_users = True
    if not lacking.keys() & {"database", "user-table"}:
        with current.engine.connect() as connection:
            may_lock_users = wallet.can_lock_rows(connection, current.models)
    return balance_trigger(
        table,
        current.models.user_key,
        current.engine.dialect.name,
        may_lock_users=may_lock_users,
    )


def _write(folder: Path, files: dict[str, str]) -> list[str]:
    """Write all files or none."""
    paths = {folder / name: text for name, text in files.items()}
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise ReferralError(
            f"{' and '.join(there)} would be written over, so nothing was written; move what is "
            "there, or name another folder with --write FOLDER."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in paths.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return [str(path) for path in paths]


def _lines(lacking: list[Finding], files: dict[str, str], written: list[str]) -> t.Iterator[str]:
    for finding in lacking:
        yield f"- {finding.message}"
        if finding.cure:
            yield f"  {finding.cure}"
    if written:
        yield f"\nWritten: {', '.join(written)}."
        return
    for name, text in files.items():
        yield f"\n===== {name} =====\n{text}"
