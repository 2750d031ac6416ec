"""Who is asking, and which user an object or an id from outside means."""

from __future__ import annotations

import dataclasses
import enum
import typing as t
import uuid
import warnings

import flask_login
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import make_transient
from werkzeug.local import LocalProxy

from flask_referral import codes
from flask_referral import ConfigurationError
from flask_referral import Referral
from flask_referral import ReferralError
from flask_referral.errors import UnknownUser
from flask_referral.host import identity

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import key_column
from ..hosts import KEYS

URL = "/api/referral/generate"
SOME_UUID = uuid.UUID("6f1c1b2e-0c7e-4d53-9a53-2b5a0c1d7e11")


@pytest.fixture
def host(make_sqlite: MakeHost) -> Host:
    return make_sqlite()


class Number(enum.IntEnum):
    SEVEN = 7


class Name(str, enum.Enum):  # noqa: UP042
    ADA = "ada"


class Markup(str):
    pass


GOOD: list[tuple[sa.types.TypeEngine[t.Any], t.Any, t.Any]] = [
    (sa.Integer(), 7, 7),
    (sa.Integer(), "7", 7),
    (sa.Integer(), "007", 7),
    (sa.Integer(), "-7", -7),
    (sa.Integer(), Number.SEVEN, 7),
    (sa.Integer(), 2**31 - 1, 2**31 - 1),
    (sa.BigInteger(), str(2**63 - 1), 2**63 - 1),
    (sa.BigInteger(), -(2**63), -(2**63)),
    (sa.SmallInteger(), 2**15 - 1, 2**15 - 1),
    (sa.Uuid(), SOME_UUID, SOME_UUID),
    (sa.Uuid(), str(SOME_UUID).upper(), SOME_UUID),
    (sa.Uuid(), SOME_UUID.hex, SOME_UUID),
    (sa.Uuid(as_uuid=False), SOME_UUID, str(SOME_UUID)),
    (sa.Uuid(as_uuid=False), SOME_UUID.hex, str(SOME_UUID)),
    (sa.String(36), SOME_UUID, str(SOME_UUID)),
    (sa.String(3), "ada", "ada"),
    (sa.String(3), "\N{OLD PERSIAN SIGN A}" * 3, "\N{OLD PERSIAN SIGN A}" * 3),
    (sa.Text(), "o'neil é", "o'neil é"),
    (sa.Text(), Name.ADA, "ada"),
    (sa.Text(), Markup("ada"), "ada"),
]

BAD: list[tuple[sa.types.TypeEngine[t.Any], t.Any]] = [
    *(
        (sa.Integer(), value)
        for value in (
            True,
            False,
            1.0,
            float("nan"),
            None,
            "",
            " 7",
            "7\n",
            "7.0",
            "0x7",
            "1_000",
            "\N{ARABIC-INDIC DIGIT SEVEN}",
            "\N{SUPERSCRIPT TWO}",
            2**31,
            -(2**31) - 1,
            10**30,
            "9" * 19,
            "9" * 100_000,
            b"7",
            SOME_UUID,
            [7],
            {"id": 7},
            object(),
        )
    ),
    (sa.SmallInteger(), 2**15),
    (sa.BigInteger(), 2**63),
    (sa.BigInteger(), "9" * 20),
    *(
        (sa.Uuid(), value)
        for value in (7, True, "", "x", "\0", str(SOME_UUID)[:-1], b"x" * 16, None)
    ),
    *((sa.Uuid(as_uuid=False), value) for value in (7, "", "x", None)),
    *((sa.String(3), value) for value in ("", "adam", "a\0", "\udc80", 7, True, b"ada", None, [])),
    (sa.Text(), "a\0b"),
    (sa.Text(), "\ud800"),
]


@pytest.mark.parametrize(("type_", "given", "expected"), GOOD)
def test_id_from_outside(type_: sa.types.TypeEngine[t.Any], given: t.Any, expected: t.Any) -> None:
    converted = identity.convert_key(sa.Column("id", type_), given)
    assert converted == expected
    # A driver may not know subclasses.
    assert type(converted) is type(expected)


@pytest.mark.parametrize(("type_", "given"), BAD)
def test_no_id(type_: sa.types.TypeEngine[t.Any], given: t.Any) -> None:
    with pytest.raises(UnknownUser, match="cannot be a user's id: ") as caught:
        identity.convert_key(sa.Column("id", type_), given)
    assert len(str(caught.value)) < 200


def test_type_of_the_hosts_own_converts_by_itself() -> None:
    class Guid(sa.TypeDecorator[uuid.UUID]):
        impl = sa.CHAR(36)
        cache_ok = True

    assert identity.convert_key(sa.Column("id", Guid()), SOME_UUID) is SOME_UUID


@pytest.mark.parametrize("key", KEYS)
def test_each_form_of_a_user(make: MakeHost, key: str) -> None:
    host = make(key=key)
    user_id = host.add_user(name="ada")
    users = host.User.__table__

    @dataclasses.dataclass
    class SessionUser:
        id: t.Any

    with host.app.app_context():
        user = host.db.session.get(host.User, user_id)
        row = host.db.session.execute(sa.select(users)).one()
        forms = [
            user_id,
            str(user_id),
            user,
            LocalProxy(lambda: user),
            LocalProxy(lambda: user_id),
            row,
            SessionUser(user_id),
            SessionUser(str(user_id)),
        ]
        found = [host.referral.get_or_create_code(form).code for form in forms]
        assert found == [found[0]] * len(forms)
        assert host.referral.get_or_create_code(user_id).user_id == user_id
        host.db.session.commit()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("autoflush", [True, False])
def test_user_of_this_transaction_is_flushed(make: MakeHost, key: str, autoflush: bool) -> None:
    host = make(key=key)
    ids = {"int": 41, "uuid": SOME_UUID, "str": "ada"}
    with host.app.app_context():
        session = host.db.session()
        session.autoflush = autoflush
        without_id, with_id = host.User(), host.User(id=ids[key])
        session.add_all([without_id, with_id])
        first = host.referral.get_or_create_code(without_id)
        second = host.referral.get_or_create_code(with_id)
        assert first.user_id == without_id.id
        assert second.user_id == ids[key]
        assert without_id.id != with_id.id
        session.rollback()
        assert session.scalar(sa.select(sa.func.count(host.referral.models.ReferralCode.id))) == 0


def test_expired_and_detached_user_is_not_loaded(host: Host) -> None:
    host.add_user()
    with host.app.app_context():
        session = host.db.session()
        user = session.scalars(sa.select(host.User)).one()
        session.commit()
        with host.statements() as statements:
            code = host.referral.get_or_create_code(user).code
        assert len(statements) == 2
        session.commit()
        session.expunge(user)
        assert host.referral.get_or_create_code(user).code == code


def test_user_that_is_not_stored(host: Host) -> None:
    with host.app.app_context():
        with pytest.raises(UnknownUser, match="add it to the session and flush"):
            host.referral.get_or_create_code(host.User())
        with pytest.raises(UnknownUser, match="There is no user 9 in table 'users'"):
            host.referral.get_or_create_code(host.User(id=9))
        user = host.User()
        host.db.session.add(user)
        host.db.session.commit()
        host.db.session.delete(user)
        host.db.session.commit()
        with pytest.raises(UnknownUser, match="There is no user 1 in table 'users'"):
            host.referral.get_or_create_code(user)
        make_transient(user)
        with pytest.raises(UnknownUser, match="There is no user 1 in table 'users'"):
            host.referral.get_or_create_code(user)
        assert host.db.session.scalars(sa.select(host.referral.models.ReferralCode)).all() == []


def test_object_of_another_class_is_no_user(host: Host) -> None:
    user_id = host.add_user()
    with host.app.app_context():
        order = host.Wallet(user_id=user_id, amount_cents=1, type="adjustment")
        host.db.session.add(order)
        host.db.session.flush()
        assert order.id == user_id
        with pytest.raises(UnknownUser, match="This is a WalletTransaction, not a User"):
            host.referral.get_or_create_code(order)


def test_class_that_inherits_from_the_users() -> None:
    db = SQLAlchemy()

    class User(db.Model):  # type: ignore[name-defined,misc]
        account = sa.Column("id", sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "user"}

    class Admin(User):
        admin_id = sa.Column(sa.ForeignKey(User.account), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "admin"}

    class Guest(User):
        __mapper_args__ = {"polymorphic_identity": "guest"}

    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    referral = Referral(app, db, user_model=User)
    with app.app_context():
        db.create_all()
        for user in (User(), Admin(), Guest()):
            db.session.add(user)
            assert referral.get_or_create_code(user).user_id == user.account
        db.session.commit()


def test_user_table_and_an_object_of_the_hosts() -> None:
    db = SQLAlchemy()
    users = sa.Table("users", sa.MetaData(), key_column("int"))

    class Profile(db.Model):  # type: ignore[name-defined,misc]
        id = sa.Column(sa.Integer, primary_key=True)

    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    referral = Referral(app, db, user_model=users)
    with app.app_context():
        users.create(db.engine)
        db.create_all()
        db.session.execute(users.insert().values(id=3))
        db.session.add(Profile(id=3))
        assert referral.get_or_create_code(db.session.get(Profile, 3)).user_id == 3


# Flask-Login


@pytest.fixture
def with_login(make_sqlite: MakeHost) -> Host:
    """A host that uses Flask-Login, and names no loader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        host = make_sqlite()
    host.referral._loaders.identity = None
    login = flask_login.LoginManager(host.app)

    class Account(flask_login.UserMixin):
        def __init__(self, id: t.Any) -> None:
            self.id = id

    login.user_loader(Account)

    @host.app.get("/login/<id>")
    def log_in(id: str) -> str:
        flask_login.login_user(Account(id))
        return ""

    return host


def test_flask_login_is_the_default(with_login: Host) -> None:
    user_id = with_login.add_user()
    client = with_login.client()
    assert client.post(URL).status_code == 401
    client.get(f"/login/{user_id}")
    code = client.post(URL).get_json()["code"]
    with with_login.app.app_context():
        assert with_login.referral.get_or_create_code(user_id).code == code


def test_loader_goes_before_flask_login(with_login: Host) -> None:
    with_login.referral.identity_loader(lambda: None)
    client = with_login.client()
    client.get(f"/login/{with_login.add_user()}")
    assert client.post(URL).status_code == 401


def test_nobody_says_who_is_logged_in(host: Host) -> None:
    host.referral._loaders.identity, host.app.debug = None, True
    answer = host.client().post(URL)
    assert answer.status_code == 500
    assert "@referral.identity_loader" in answer.get_json()["error"]
    assert "Flask-Login" in answer.get_json()["error"]
    with host.app.test_request_context(), pytest.raises(ConfigurationError):
        identity.current_user_id(host.referral.state)


# What a loader may answer


class Anonymous:
    is_authenticated = False
    id = 1


class Authenticated:
    is_authenticated = True
    id = 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, 401),
        (Anonymous(), 401),
        (LocalProxy(lambda: None), 401),
        (LocalProxy(Anonymous), 401),
        (1, 200),
        ("1", 200),
        (Authenticated(), 200),
        (LocalProxy(Authenticated), 200),
        (2, 401),
        ("x", 500),
        ("", 500),
        (0, 401),
        (True, 500),
        (False, 500),
        ("\0", 500),
        ("\udc80", 500),
        (10**30, 500),
        (object(), 500),
    ],
)
def test_answer_of_the_loader(host: Host, answer: t.Any, status: int) -> None:
    assert host.add_user() == 1
    host.current_user = answer
    response = host.client().post(URL)
    assert response.status_code == status
    assert response.get_json().keys() == ({"code"} if status == 200 else {"error", "code"})
    with host.app.app_context():
        stored = host.db.session.scalars(sa.select(host.referral.models.ReferralCode)).all()
        assert len(stored) == (status == 200)


def test_loader_that_fails(host: Host) -> None:
    @host.referral.identity_loader
    def fail() -> t.NoReturn:
        raise KeyError("session")

    answer = host.client().post(URL)
    assert answer.status_code == 500
    assert "session" not in answer.get_json()["error"]


def test_decorator_returns_the_function(host: Host) -> None:
    def load() -> None:
        return None

    assert host.referral.identity_loader(load) is load


def test_message_of_a_refused_id_shows_little_of_it(host: Host) -> None:
    host.current_user = {"email": "ada@example.com", "password": "x" * 100 + "hush-hush"}
    answer = host.client().post(URL)
    assert answer.status_code == 500
    assert "hush-hush" not in answer.get_data(as_text=True)


def test_errors_are_of_one_family() -> None:
    assert issubclass(UnknownUser, ReferralError)
    assert issubclass(ConfigurationError, ReferralError)
    assert issubclass(codes.CodeExhausted, ReferralError)
    assert issubclass(ReferralError, RuntimeError)
    assert str(codes.CodeExhausted()).startswith("No free referral code")
