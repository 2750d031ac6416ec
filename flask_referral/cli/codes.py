"""``flask referral code`` and ``backfill``."""

from __future__ import annotations

import time

import click
from flask.cli import with_appcontext

from .. import codes
from ..host.identity import convert_key
from ..upkeep import backfill as station
from ..web import connections as database
from . import batches
from .batches import plural
from .group import json_option
from .group import report
from .group import state


@click.command()
@click.argument("user")
@json_option
@with_appcontext
def code(user: str, as_json: bool) -> None:
    """Print the code of USER (an id), made now if there is none."""
    current = state()
    key = convert_key(current.models.user_key, user)
    found, _ = database.in_one_commit(
        current, lambda db: codes.get_or_create(db, current.models, key), codes.announce
    )
    report(as_json, {"user": key, "code": found.code}, found.code)


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
    models = state().models
    started = time.monotonic()
    with batches.connection() as connection:
        created = sum(
            batches.run(
                connection,
                station.batches(connection, models, batch_size),
                label="Making codes",
                length=station.count_missing(connection, models),
                size=int,
                summary=lambda made: f"made {plural(sum(made), 'code')}",
            )
        )
    seconds = round(time.monotonic() - started, 3)
    text = f"Made {plural(created, 'code')} in {seconds:.1f} seconds."
    if not created:
        text = "Every user has a code already."
    report(as_json, {"created": created, "seconds": seconds}, text)
