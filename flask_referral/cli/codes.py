"""``flask referral code`` and ``backfill``."""

from __future__ import annotations

import sys
import time

import click
from flask.cli import with_appcontext

from .. import backfill as station
from ..identity import user_id
from .group import extension
from .group import json_option
from .group import report
from .group import state


@click.command()
@click.argument("user")
@json_option
@with_appcontext
def code(user: str, as_json: bool) -> None:
    """Print the code of USER (an id), made now if there is none."""
    key = user_id(state(), user)
    found = extension().get_or_create_code(key).code
    state().db.session.commit()
    report(as_json, {"user": key, "code": found}, found)


@click.command()
@click.option(
    "--batch-size",
    type=click.IntRange(1, 10_000),
    default=2_000,
    show_default=True,
    help="How many users get their code in one transaction.",
)
@json_option
@with_appcontext
def backfill(batch_size: int, as_json: bool) -> None:
    """Make codes for all users without one.

    It can be interrupted, repeated and run twice at once.
    """
    now = state()
    started = time.monotonic()
    created = 0
    with now.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="READ COMMITTED")
        missing = station.count_missing(connection, now.models)
        bar = click.progressbar(length=missing, label="Making codes", file=sys.stderr)
        try:
            with bar:
                for made in station.batches(connection, now.models, batch_size):
                    connection.commit()
                    created += made
                    bar.update(made)
        except KeyboardInterrupt:
            connection.rollback()
            raise click.ClickException(
                f"Interrupted; {_codes(created)} were made and stay. Run the command again to go "
                "on from there."
            ) from None
    seconds = round(time.monotonic() - started, 3)
    text = f"Made {_codes(created)} in {seconds:.1f} seconds."
    if not created:
        text = "Every user has a code already."
    report(as_json, {"created": created, "seconds": seconds}, text)


def _codes(number: int) -> str:
    return "1 code" if number == 1 else f"{number:,} codes"
