"""Commands that take long: in transactions of their own, with a progress bar."""

from __future__ import annotations

import contextlib
import sys
import typing as t

import click
import sqlalchemy as sa
from sqlalchemy.orm import Session

from .group import state

T = t.TypeVar("T")


@contextlib.contextmanager
def connection() -> t.Iterator[sa.Connection]:
    """Yield a connection in a transaction, which sees what others committed while it waited.

    Whatever the application's engine is set to, AUTOCOMMIT included.
    """
    with state().engine.connect() as made:
        is_postgresql = made.dialect.name == "postgresql"
        level = "READ COMMITTED" if is_postgresql else "SERIALIZABLE"
        yield made.execution_options(isolation_level=level)


def run(
    transaction: sa.Connection | Session,
    batches: t.Iterable[T],
    *,
    label: str,
    length: int,
    size: t.Callable[[T], int],
    summary: t.Callable[[list[T]], str],
) -> list[T]:
    """Commit each batch, and show on stderr how far it got.

    :param length: what the sizes of all batches will add up to, about.
    :param summary: says what is done, where the command is interrupted.
    """
    done: list[T] = []
    try:
        with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
            for batch in batches:
                transaction.commit()
                done.append(batch)
                bar.update(size(batch))
    except KeyboardInterrupt:
        transaction.rollback()
        raise click.ClickException(
            f"Interrupted; {summary(done)} so far, which stays. Run the command again to go on "
            "from there."
        ) from None
    return done


def plural(number: int, thing: str, things: str | None = None) -> str:
    """Return a number with what it counts: ``1 click``, ``2,000 clicks``."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
