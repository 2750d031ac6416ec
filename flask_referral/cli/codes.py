"""``flask referral code``, ``codes …`` and ``backfill``."""

from __future__ import annotations

import time
import typing as t

import click
import sqlalchemy as sa
from flask.cli import AppGroup
from flask.cli import with_appcontext

from .. import clock
from .. import codes as station
from .. import outbox
from .. import vanity
from ..host.identity import convert_key
from ..host.state import State
from ..upkeep import acts
from ..upkeep import backfill as missing
from ..web import connections as database
from . import batches
from .batches import plural
from .group import json_option
from .group import operated
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
        current, lambda db: station.get_or_create(db, current.models, key), station.told
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
                missing.batches(connection, models, batch_size),
                label="Making codes",
                length=missing.count_missing(connection, models),
                size=int,
                summary=lambda made: f"made {plural(sum(made), 'code')}",
            )
        )
    seconds = round(time.monotonic() - started, 3)
    text = f"Made {plural(created, 'code')} in {seconds:.1f} seconds."
    if not created:
        text = "Every user has a code already."
    report(as_json, {"created": created, "seconds": seconds}, text)


codes = AppGroup("codes", help="What a user shares: choose, renew, switch off and on.")


@codes.command("set")
@click.argument("user")
@click.argument("code")
@operated()
@json_option
def set_(user: str, code: str, by: acts.Operator, as_json: bool) -> None:
    """Make CODE, a word of 3 to 32 letters and digits, what USER (an id) shares.

    The codes that USER had before go on leading to USER.
    """
    _give(
        user,
        acts.Act.set_code,
        by,
        as_json,
        lambda state, db, key: vanity.choose(
            db, state.models, state.settings, key, code, state.loaders.code_checker
        ),
    )


@codes.command()
@click.argument("user")
@operated()
@json_option
def rotate(user: str, by: acts.Operator, as_json: bool) -> None:
    """Give USER (an id) a new generated code to share; the old ones go on working."""
    _give(
        user,
        acts.Act.rotate_code,
        by,
        as_json,
        lambda state, db, key: vanity.rotate(db, state.models, key),
    )


@codes.command()
@click.argument("user")
@operated(default=None)
@json_option
def disable(user: str, by: acts.Operator, as_json: bool) -> None:
    """Switch the code of USER (an id) off.

    Links lead on without being counted, nobody is bound, and what people whom USER referred buy
    earns nothing until it is on again. What was earned stays.
    """
    key, was_on = _switch(user, acts.Act.disable, by)
    text = "The code is off." if was_on else "The code was off; the reason is kept."
    report(as_json, {"user": key, "disabled": True, "changed": was_on}, text)


@codes.command()
@click.argument("user")
@operated()
@json_option
def enable(user: str, by: acts.Operator, as_json: bool) -> None:
    """Switch the code of USER (an id) on again."""
    key, was_off = _switch(user, acts.Act.enable, by)
    text = "The code is on again." if was_off else "The code was on; nothing was changed."
    report(as_json, {"user": key, "disabled": False, "changed": was_off}, text)


def _give(
    user: str,
    act: acts.Act,
    by: acts.Operator,
    as_json: bool,
    work: t.Callable[[State, sa.Connection, t.Any], vanity.Given],
) -> None:
    current = state()
    key = convert_key(current.models.user_key, user)
    session = current.db.session()
    connection = current.models.connection(session)
    before = station.shared(connection, current.models, key)
    given = work(current, connection, key)
    if given.code != before:
        acts.record(
            connection,
            current.models,
            by,
            act,
            now=clock.now(),
            user_id=key,
            reference=given.code,
            before={"code": before},
            after={"code": given.code},
        )
    outbox.announce(connection, session, current.models, current.settings, *vanity.told(given))
    session.commit()
    report(as_json, {"user": key, "before": before, "code": given.code}, given.code)


def _switch(user: str, act: acts.Act, by: acts.Operator) -> tuple[t.Any, bool]:
    current, now = state(), clock.now()
    key = convert_key(current.models.user_key, user)
    session = current.db.session()
    connection = current.models.connection(session)
    changed = acts.switch(connection, current.models, by, act, key, now=now)
    session.commit()
    return key, changed
