"""Databases as the upgrade leaves them, made once for each form of host and copied after that."""

from __future__ import annotations

import itertools
import typing as t

import sqlalchemy as sa

from .hosts import Host

#: The options of hosts that their tables depend on.
_FORMS = ("key", "convention", "wallet", "positive_wallet", "naive")
#: Those that make more than tables, or make them elsewhere.
_PECULIAR = {"schema", "bind_key", "collation"}
# What initdb made has lower numbers.
_IS_EMPTY = sa.text(
    """
    SELECT NOT EXISTS (SELECT 1 FROM pg_class WHERE oid >= 16384)
       AND NOT EXISTS (SELECT 1 FROM pg_proc WHERE oid >= 16384)
       AND NOT EXISTS (SELECT 1 FROM pg_type WHERE oid >= 16384)
       AND NOT EXISTS (SELECT 1 FROM pg_namespace WHERE oid >= 16384)
       AND NOT EXISTS (SELECT 1 FROM pg_default_acl)
       AND NOT EXISTS (SELECT 1 FROM pg_db_role_setting AS setting
                       JOIN pg_database AS mine ON mine.oid = setting.setdatabase
                       WHERE mine.datname = current_database())
    """
)
_templates: dict[t.Any, str] = {}
#: Databases of the tests' own server, reached without a pooler, whose connections stay.
direct: set[sa.URL] = set()
_numbers = itertools.count(1)


def plain(url: sa.URL) -> sa.URL:
    """Return a URL without the driver's name."""
    return url.set(drivername=url.get_backend_name())


class Upgraded:
    """A host's database, which may be brought by a copy where it is PostgreSQL's and empty."""

    def __init__(self, url: str, options: dict[str, t.Any]) -> None:
        self.url = sa.make_url(url)
        names = {name.partition("_")[0] for name in options}
        is_plain = not (_PECULIAR & options.keys() or "SQLALCHEMY" in names)
        self.may_copy = is_plain and plain(self.url) in direct and self._ask(self.url, _IS_EMPTY)
        form = {name: options[name] for name in _FORMS if name in options}
        self.form = tuple(form.items())

    def bring(self) -> bool:
        """Put a copy in the place of the database, if there is one; return whether there is."""
        if not self.may_copy or (template := _templates.get(self.form)) is None:
            return False
        name = self.url.database
        self._run(
            f"DROP DATABASE {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy",
        )
        return True

    def keep(self, host: Host) -> None:
        """Keep a copy for those that come."""
        if self.may_copy:
            host.close()
            name = f"{self.url.database}_upgraded_{next(_numbers)}"
            self._run(f"CREATE DATABASE {name} TEMPLATE {self.url.database} STRATEGY file_copy")
            _templates[self.form] = name

    def _run(self, *statements: str) -> None:
        engine = self._engine(self.url.set(database="postgres"))
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def _ask(self, url: sa.URL, query: sa.TextClause) -> bool:
        with self._engine(url).connect() as connection:
            return bool(connection.scalar(query))

    def _engine(self, url: sa.URL) -> sa.Engine:
        return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
