"""Whether the database answers and has our tables as the migrations left them."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import schema
from ..db import qualified
from ..db.failures import is_away
from ..db.models import USERS_TRIGGERS
from ..errors import SchemaDiffers
from .findings import Check
from .findings import counted
from .findings import EXAMPLES
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

MINIMUM = {"postgresql": (13,), "sqlite": (3, 35)}
NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
#: Seconds between two statements of a transaction; an application that needs more waits for others.
LONGEST_IDLE = 2
_IDLE = sa.text(
    """
    SELECT a.pid, a.application_name AS name,
           EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::int AS seconds
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database()
      AND a.state LIKE 'idle in transaction%'
      AND a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => :longest)
      AND EXISTS (
          SELECT FROM pg_catalog.pg_locks l
          WHERE l.pid = a.pid AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
            AND l.relation IN (
                SELECT CAST(pg_catalog.to_regclass(name) AS oid)
                FROM pg_catalog.unnest(CAST(:tables AS text[])) AS name))
    ORDER BY a.state_change
    """
)

#: Schemas of the search path in which somebody may create functions who neither owns the database
#: nor is trusted with all of it.
_OPEN = sa.text(
    """
    SELECT n.nspname AS schema,
           CASE WHEN acl.grantee = '0' THEN 'everybody (PUBLIC)'
                ELSE CAST(pg_catalog.pg_get_userbyid(acl.grantee) AS text) END AS who
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS path (name)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = path.name
    CROSS JOIN pg_catalog.aclexplode(n.nspacl) AS acl
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = acl.grantee
    JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
    WHERE acl.privilege_type = 'CREATE' AND acl.grantee NOT IN (n.nspowner, d.datdba)
      AND r.rolsuper IS NOT TRUE AND r.rolname IS DISTINCT FROM current_user
    ORDER BY 1, 2
    """
)


def answers(patient: Patient) -> t.Iterator[Finding]:
    """Whether there is a database, and new enough."""
    with patient.connect() as connection:
        qualified.execute(connection, sa.select(1))
        version = connection.engine.dialect.server_version_info or ()
    name, minimum = NAMES[patient.dialect], MINIMUM[patient.dialect]
    if version < minimum:
        yield fault(
            f"The database is {name} {_dotted(version)}, which is too old for flask-referral.",
            f"Upgrade it to {name} {_dotted(minimum)} or newer.",
        )
    else:
        yield ok(f"The database answers: {name} {_dotted(version)}.")


def users(patient: Patient) -> t.Iterator[Finding]:
    """Whether the table that everything refers to exists."""
    table = patient.state.models.user_key.table
    with patient.connect() as connection:
        if not sa.inspect(connection).has_table(table.name, schema=table.schema):
            yield fault(
                f"The user table {table.fullname!r} does not exist.",
                "Run the application's own migrations: flask db upgrade.",
            )


def migrations(patient: Patient) -> t.Iterator[Finding]:
    """Whether the shipped revisions have run, all of them."""
    now, newest = schema.current(patient.state), schema.head()
    names = sorted(patient.state.models.table_names)
    with patient.connect() as connection:
        inspector = sa.inspect(connection)
        present = [name for name in names if inspector.has_table(name, schema=patient.schema)]
    missing = ", ".join(name for name in names if name not in present)
    if now is None and present:
        yield fault(
            f"The database has {', '.join(present)}, but no record of our revisions.",
            "If the application's own migrations or create_all() made them, run flask referral db "
            "stamp 0001, then flask referral db upgrade.",
        )
    elif now is None:
        yield fault(
            "The referral migrations have never run on this database.",
            "Run flask referral db upgrade.",
        )
    elif now not in [script.revision for script in schema.history()]:
        yield fault(
            f"The database is at revision {now}, which this version of flask-referral does not "
            f"know; its newest is {newest}.",
            "Install the version of flask-referral that made it, or a newer one.",
        )
    elif now != newest:
        yield fault(
            f"The referral tables are at revision {now}, and the newest is {newest}.",
            "Run flask referral db upgrade.",
        )
    elif missing:
        yield fault(
            f"The database is recorded at revision {now}, but has no {missing}.",
            "Restore what is missing from a backup; without one, drop what is left of the "
            "referral tables, then run flask referral db stamp base and flask referral db upgrade.",
        )


def models_agree(patient: Patient) -> t.Iterator[Finding]:
    """Whether somebody changed the tables since."""
    try:
        schema.check(patient.state)
    except SchemaDiffers as error:
        yield fault(
            f"The referral tables are not as the shipped revisions left them: {error.differences}.",
            "Undo what was changed in the database; flask referral db upgrade --sql shows how the "
            "tables are made.",
        )


def deleted_users(patient: Patient) -> t.Iterator[Finding]:
    """Whether nobody inherits the code or the referrer of a user whose key is given again."""
    users = patient.state.models.user_key.table
    with patient.connect() as connection:
        schema_name = connection.dialect.identifier_preparer.quote(users.schema or "main")
        triggers = sa.text(
            f"SELECT 1 FROM {schema_name}.sqlite_master "
            "WHERE type = 'trigger' AND name = :name AND tbl_name = :table"
        )
        missing = [
            name
            for name in USERS_TRIGGERS
            if connection.execute(triggers, {"name": name, "table": users.name}).first() is None
        ]
        has_foreign_keys = bool(connection.exec_driver_sql("PRAGMA foreign_keys").scalar())
    for name in missing:
        yield fault(
            f"The trigger {name} on {users.fullname!r} is missing, as after a table was built "
            "anew: where foreign keys are off, a new user with a deleted one's key inherits what "
            "that one left.",
            "Make it again: in a new database, after flask referral db upgrade, SELECT sql FROM "
            f"sqlite_master WHERE name = '{name}' shows its statement.",
        )
    if missing:
        return
    if not has_foreign_keys:
        yield ok(
            "Foreign keys are switched off; what they say of deleted users is done by the triggers "
            f"{' and '.join(USERS_TRIGGERS)}. Run PRAGMA foreign_keys = ON on each new connection "
            "(SQLAlchemy's documentation of SQLite shows how), and a table that is built anew "
            "loses nothing."
        )


def read_bind(patient: Patient) -> t.Iterator[Finding]:
    """Whether statistics find in the replica what they read."""
    engine = patient.state.read_engine
    assert engine is not None
    name = f"The database {patient.state.settings.read_bind!r} of REFERRAL_READ_BIND"
    column = patient.state.models.ReferralCode.__table__.c.code
    with patient.connect() as connection:
        code = qualified.execute(connection, sa.select(column).limit(1)).scalar()
    try:
        with engine.connect() as connection:
            found = qualified.execute(connection, sa.select(column).where(column == code)).scalar()
    except sa.exc.SQLAlchemyError as error:
        what = "did not answer" if is_away(error) else "cannot be read"
        yield fault(
            f"{name} {what}, so there are no statistics.",
            "Mend it, with its URL in SQLALCHEMY_BINDS and the rights of its login, or leave "
            "REFERRAL_READ_BIND out.",
        )
    else:
        if found != code:
            yield fault(
                f"{name} does not have, or does not show its login, a code that the users' "
                "database has.",
                "Let it follow that database, and give its login the same rights (flask referral "
                "rls grant --service-role), or leave REFERRAL_READ_BIND out.",
            )


def transactions(patient: Patient) -> t.Iterator[Finding]:
    """Whether somebody keeps wallets waiting while no statement is running.

    Other logins' sessions are shown to members of ``pg_read_all_stats`` only.
    """
    state = patient.state
    tables = [state.models.user_key.table, state.models.ReferralReward.__table__]
    with patient.connect() as connection:
        names = [connection.dialect.identifier_preparer.format_table(each) for each in tables]
        waiting = connection.execute(_IDLE, {"tables": names, "longest": LONGEST_IDLE}).all()
    for session in waiting:
        yield warning(
            f"Session {session.pid} ({session.name or 'without a name'}) has been in a "
            f"transaction for {session.seconds} seconds without running anything, and holds locks "
            "on users or rewards: whoever sells to somebody of the same referrer waits for it.",
            "Do network calls, mails and the charging of cards before convert() or after the "
            "commit, never between them. Under gevent, psycopg2 needs psycogreen.",
        )


def codes(patient: Patient) -> t.Iterator[Finding]:
    """Whether there are codes from before the database refused what is none."""
    is_none = (
        "code GLOB '*[^A-Z0-9]*' OR length(code) NOT BETWEEN 3 AND 32"
        if patient.dialect == "sqlite"
        else "code COLLATE \"C\" OPERATOR(pg_catalog.!~) '^[A-Z0-9]{3,32}$'"
    )
    table = patient.state.models.ReferralCode.__table__
    with patient.connect() as connection:
        name = connection.dialect.identifier_preparer.format_table(table)
        found = connection.execute(
            sa.text(f"SELECT code, user_id FROM {name} WHERE {is_none} ORDER BY user_id")
        ).all()
    if found:
        examples = ", ".join(f"{row.code[:32]!r} of user {row.user_id}" for row in found[:EXAMPLES])
        yield warning(
            f"{counted(len(found), 'row', 'rows')} of {table.name} "
            f"{'has a code that is' if len(found) == 1 else 'have codes that are'} none, which "
            f"no link and no form accepts: {examples}.",
            "Remove them with flask referral erase USER; the user is then given another one.",
        )


def search_path(patient: Patient) -> t.Iterator[Finding]:
    """Whether others may create functions where the application's SQL looks for them.

    SQL of this package names the schema of each function; the host's own may not.
    """
    with patient.connect() as connection:
        found = connection.execute(_OPEN).all()
        quote = connection.dialect.identifier_preparer.quote
    for row in found:
        who = "PUBLIC" if "PUBLIC" in row.who else quote(row.who)
        yield warning(
            f"In schema {row.schema!r}, which is in the application's search path, {row.who} may "
            "create functions: one that fits SQL of the application better than PostgreSQL's own "
            "runs with the application's rights.",
            f"REVOKE CREATE ON SCHEMA {quote(row.schema)} FROM {who};",
        )


def _dotted(version: tuple[t.Any, ...]) -> str:
    return ".".join(map(str, version))


CHECKS = (
    Check("database", answers, "The database answers."),
    Check("user-table", users, "The user table exists.", ("database",)),
    Check(
        "migrations",
        migrations,
        "The referral migrations have run, up to the newest.",
        ("database", "user-table"),
    ),
    Check(
        "models",
        models_agree,
        "The referral tables are as the models declare them.",
        ("database", "migrations"),
    ),
    Check(
        "read-bind",
        read_bind,
        "The database of REFERRAL_READ_BIND has what statistics read.",
        ("database", "migrations"),
        applies=lambda patient: patient.state.settings.read_bind is not None,
    ),
    Check(
        "transactions",
        transactions,
        "No transaction holds locks while the application does something else.",
        ("database", "user-table", "migrations"),
        applies=lambda patient: patient.dialect == "postgresql",
    ),
    Check(
        "codes",
        codes,
        "All codes have the form of one.",
        ("database", "migrations"),
    ),
    Check(
        "search-path",
        search_path,
        "Nobody else may create functions in the application's search path.",
        ("database",),
        applies=lambda patient: patient.dialect == "postgresql",
    ),
    Check(
        "deleted-users",
        deleted_users,
        "What belonged to a deleted user goes with the user.",
        ("database", "user-table", "migrations"),
        applies=lambda patient: patient.dialect == "sqlite",
    ),
)
