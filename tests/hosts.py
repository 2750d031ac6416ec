"""Host applications for the tests: users with any key, and a wallet with the host's trigger."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import typing as t
import uuid

import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from flask_referral import Referral
from flask_referral.db.models import table_of


class NoInput(io.BytesIO):
    """A terminal at its end."""

    def read1(self, size: int | None = -1, /) -> bytes:
        raise EOFError


CLICK_8_1 = importlib.metadata.version("click").startswith("8.1.")

KEYS = ("int", "uuid", "str")

CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

HOST_TYPES = ("deal_payment", "affiliate_commission", "withdrawal", "adjustment")
HOST_REFERENCE_TYPES = ("deal_enrollment", "affiliate_conversion", "manual")

#: A trigger as hosts write it: the last row's balance and the new amount, without a lock.
POSTGRESQL_TRIGGER = """
CREATE FUNCTION calculate_balance_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.balance_after_cents := coalesce(
        (SELECT balance_after_cents FROM wallet_transactions
         WHERE user_id = NEW.user_id ORDER BY created_at DESC, id DESC LIMIT 1), 0
    ) + NEW.amount_cents;
    RETURN NEW;
END $$;
CREATE TRIGGER calculate_balance_after BEFORE INSERT ON wallet_transactions
FOR EACH ROW EXECUTE FUNCTION calculate_balance_after()
"""
SQLITE_TRIGGER = """
CREATE TRIGGER calculate_balance_after AFTER INSERT ON wallet_transactions
BEGIN
    UPDATE wallet_transactions SET balance_after_cents = NEW.amount_cents + coalesce(
        (SELECT balance_after_cents FROM wallet_transactions
         WHERE user_id = NEW.user_id AND id < NEW.id ORDER BY id DESC LIMIT 1), 0
    ) WHERE id = NEW.id;
END
"""


def key_column(kind: str, collation: str | None = None) -> sa.Column[t.Any]:
    """Return a primary key column of one of :data:`KEYS`, or a UUID that is stored as text."""
    if kind == "int":
        return sa.Column("id", sa.Integer, primary_key=True)
    if kind == "uuid":
        return sa.Column("id", sa.Uuid, primary_key=True, default=uuid.uuid4)
    if kind == "hex":
        return sa.Column("id", sa.Uuid(native_uuid=False), primary_key=True, default=uuid.uuid4)
    text = sa.CHAR(26) if kind == "char" else sa.String(26, collation=collation)
    return sa.Column("id", text, primary_key=True, default=lambda: uuid.uuid4().hex[:26])


@dataclasses.dataclass
class Application:
    """An application with users and perhaps a wallet."""

    app: Flask
    db: SQLAlchemy
    User: t.Any
    Wallet: t.Any

    def command(self, *args: str, status: int = 0, input: str | None = None) -> Result:
        """Run ``flask ARGS``."""
        # Newer clicks always keep stderr apart, and know that no input is no answer.
        runner = self.app.test_cli_runner(**({"mix_stderr": False} if CLICK_8_1 else {}))
        result = runner.invoke(args=args, input=NoInput() if CLICK_8_1 and not input else input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.stdout + result.stderr
        return result

    def close(self) -> None:
        """Close its database connections."""
        with self.app.app_context():
            for engine in self.db.engines.values():
                engine.dispose()

    def create_tables(self) -> None:
        """Make the host's own tables, with the wallet's trigger."""
        own = [table_of(model, "") for model in (self.User, self.Wallet) if model is not None]
        with self.app.app_context():
            for table in own:
                with self.db.engines[table.metadata.info.get("bind_key")].begin() as connection:
                    # Not create_all(), which makes our index on the wallet too.
                    connection.execute(sa.schema.CreateTable(table))
            if self.Wallet is not None:
                engine = self.db.engines[table_of(self.Wallet, "").metadata.info.get("bind_key")]
                sqlite = engine.dialect.name == "sqlite"
                with engine.begin() as connection:
                    connection.exec_driver_sql(SQLITE_TRIGGER if sqlite else POSTGRESQL_TRIGGER)


@dataclasses.dataclass
class Host(Application):
    """An application that uses the extension."""

    referral: Referral
    #: What the identity loader answers.
    current_user: t.Any = None

    def cli(self, *args: str, status: int = 0, input: str | None = None) -> Result:
        """Run ``flask referral ARGS``."""
        return self.command("referral", *args, status=status, input=input)

    def failure(self, *args: str, status: int = 1) -> str:
        """Run ``flask referral ARGS``, which has to fail, and return what it says on stderr."""
        return self.cli(*args, status=status).stderr

    def add_user(self, **values: t.Any) -> t.Any:
        """Store a user and return its key."""
        with self.app.app_context():
            user = self.User(**values)
            self.db.session.add(user)
            self.db.session.commit()
            return user.id

    def client(self) -> FlaskClient:
        return self.app.test_client()

    @contextlib.contextmanager
    def statements(self) -> t.Iterator[list[str]]:
        """Collect the SQL that is sent to the database, without BEGIN and COMMIT."""
        seen: list[str] = []

        def collect(
            connection: t.Any, cursor: t.Any, statement: str, parameters: t.Any, *rest: t.Any
        ) -> None:
            seen.append(statement)

        with self.app.app_context():
            engine = self.db.engine
        event.listen(engine, "before_cursor_execute", collect)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", collect)


def make_application(
    url: str,
    *,
    key: str = "int",
    convention: bool = False,
    wallet: bool = True,
    schema: str | None = None,
    positive_wallet: bool = False,
    bind_key: str | None = None,
    naive: bool = False,
    collation: str | None = None,
    **config: t.Any,
) -> Application:
    """Build an application whose tables do not exist yet; see :func:`make_host`."""
    metadata = sa.MetaData(naming_convention=CONVENTION if convention else None, schema=schema)
    db = SQLAlchemy(metadata=metadata)

    class User(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        __bind_key__ = bind_key
        id = key_column(key, collation)
        name = sa.Column(sa.Text)
        created_at = sa.Column(sa.DateTime(timezone=not naive), server_default=sa.func.now())

    wallet_model = None
    if wallet:
        wallet_model = make_wallet(db, User, positive=positive_wallet, bind_key=bind_key)
    app = Flask("host")
    app.config.update(
        {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": "for tests only", "TESTING": True}
    )
    app.config.update(config)
    db.init_app(app)
    Migrate(app, db)
    return Application(app, db, User, wallet_model)


def make_host(
    url: str,
    *,
    register_blueprint: bool = True,
    reward_policy: t.Any = None,
    **options: t.Any,
) -> Host:
    """Build a host whose tables do not exist yet.

    :param options: ``key``, one of :data:`KEYS`; ``convention``, whether the host's metadata has
        a naming convention; ``wallet``, whether it has one; ``schema``, its metadata's;
        ``bind_key``, the name of the database of users and wallet; ``naive``, whether
        ``created_at`` has no time zone; ``collation``, of keys that are strings; and settings of
        the application.
    """
    host = make_application(url, **options)
    referral = Referral()
    referral.init_app(
        host.app,
        host.db,
        user_model=host.User,
        wallet_model=host.Wallet,
        register_blueprint=register_blueprint,
        reward_policy=reward_policy,
    )
    made = Host(host.app, host.db, host.User, host.Wallet, referral)
    referral.identity_loader(lambda: made.current_user)
    return made


def make_wallet(
    db: SQLAlchemy, user: t.Any, *, positive: bool = False, bind_key: str | None = None
) -> t.Any:
    """Declare ``wallet_transactions`` as a host has it.

    :param positive: whether a balance may not go below zero.
    :param bind_key: the name of its database.
    """
    own_rules = [sa.CheckConstraint("balance_after_cents >= 0", name="balance")] if positive else []

    class WalletTransaction(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "wallet_transactions"
        __bind_key__ = bind_key
        id = sa.Column(sa.Integer, primary_key=True)
        user_id = sa.Column(user.id.type, sa.ForeignKey(user.id, ondelete="CASCADE"))
        amount_cents = sa.Column(sa.Integer, nullable=False)
        balance_after_cents = sa.Column(sa.Integer)
        type = sa.Column(sa.Text, nullable=False)
        reference_type = sa.Column(sa.Text)
        reference_id = sa.Column(sa.Text)
        status = sa.Column(sa.Text, nullable=False, server_default="completed")
        description = sa.Column(sa.Text)
        details = sa.Column("metadata", sa.JSON)
        created_at = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.now())
        __table_args__ = (
            sa.CheckConstraint(
                sa.column("type").in_(HOST_TYPES),
                name=sa.schema.conv("wallet_transactions_type_check"),
            ),
            sa.CheckConstraint(
                sa.column("reference_type").in_(HOST_REFERENCE_TYPES),
                name=sa.schema.conv("wallet_transactions_reference_type_check"),
            ),
            *own_rules,
        )

    return WalletTransaction
