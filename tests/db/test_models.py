"""The mapped classes, in each kind of host."""

from __future__ import annotations

import types
import typing as t

import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import DeclarativeBaseNoMeta
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import MappedAsDataclass
from sqlalchemy.orm import relationship

from flask_referral import ConfigurationError
from flask_referral import Referral
from flask_referral import ReferralClickMixin
from flask_referral import ReferralCodeMixin
from flask_referral import ReferralConversionMixin

from ..memory import generate
from ..memory import make_app
from ..memory import make_user
from ..memory import TABLES

#: The bases of the host's ``db.Model``, and what its classes mix in.
BASES: dict[str, tuple[tuple[type, ...], tuple[type, ...]]] = {
    "default": ((), ()),
    "declarative-base": ((DeclarativeBase,), ()),
    "no-meta": ((DeclarativeBaseNoMeta,), ()),
    "dataclasses": ((DeclarativeBase,), (MappedAsDataclass,)),
}
if sa.__version__ < "2.1":
    # Flask-SQLAlchemy 3.1 cannot make such a base with SQLAlchemy 2.1.
    BASES["dataclass-base"] = ((DeclarativeBase, MappedAsDataclass), ())


def make_db(name: str) -> tuple[SQLAlchemy, t.Any]:
    """Return a database object, and a class that a host's user class derives from."""
    bases, mixins = BASES[name]
    # Each database object wants a base of its own.
    db = SQLAlchemy(model_class=types.new_class("Base", bases)) if bases else SQLAlchemy()
    dataclass = {"init": False} if "dataclass" in name else {}

    class User(*mixins, db.Model):  # type: ignore[misc,name-defined]
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True, **dataclass)

    return db, User


@pytest.fixture
def db() -> SQLAlchemy:
    return SQLAlchemy()


@pytest.fixture
def referral() -> Referral:
    """A Referral object whose current user is user 1."""
    referral = Referral()
    referral.identity_loader(lambda: 1)
    return referral


@pytest.mark.parametrize("base", BASES)
def test_each_kind_of_declarative_base(base: str, referral: Referral) -> None:
    db, user = make_db(base)
    app = make_app(db)
    referral.init_app(app, db, user_model=user)
    assert set(db.metadata.tables) == {"users", *TABLES}
    code = generate(app)[1]["code"]
    with app.app_context():
        model = referral.models.ReferralCode
        row = db.session.scalars(sa.select(model)).one()
        assert (row.user_id, row.code) == (1, code)
        assert row.created_at is not None
        db.session.add(user())
        assert referral.get_or_create_code(2).code != code
        assert len(db.session.scalars(sa.select(model).join(user)).all()) == 2


@pytest.mark.parametrize("base", BASES)
def test_classes_of_the_hosts_own(base: str, referral: Referral) -> None:
    db, user = make_db(base)

    class Invitation(ReferralCodeMixin, db.Model):  # type: ignore[name-defined,misc]
        __user_model__ = user
        owner = relationship(user)

        def shout(self) -> str:
            return f"{self.code}!"

    class Visit(ReferralClickMixin, db.Model):  # type: ignore[name-defined,misc]
        __user_model__ = user.__table__

    app = make_app(db)
    referral.init_app(app, db, user_model=user)
    assert set(db.metadata.tables) == {"users", *TABLES}
    code = generate(app)[1]["code"]
    with app.app_context():
        assert referral.models.ReferralCode is Invitation
        assert referral.models.ReferralClick is Visit
        assert issubclass(referral.models.ReferralConversion, ReferralConversionMixin)
        invitation = db.session.scalars(sa.select(Invitation)).one()
        assert invitation.shout() == f"{code}!"
        assert invitation.owner.id == 1
        assert t.cast(t.Any, referral.get_or_create_code(1)).shout() == f"{code}!"


def test_class_of_the_hosts_own_with_a_column(db: SQLAlchemy) -> None:
    attributes = {"__user_model__": make_user(db), "campaign": sa.Column(sa.Text)}
    with pytest.raises(ConfigurationError, match=r"Invitation adds columns .* table of your own"):
        type("Invitation", (ReferralCodeMixin, db.Model), attributes)


def test_class_of_the_hosts_own_without_the_codes_class(db: SQLAlchemy) -> None:
    with pytest.raises(ConfigurationError, match="Define the class of 'referral_codes' first"):
        type("Visit", (ReferralClickMixin, db.Model), {"__user_model__": make_user(db)})


def test_relationships(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(
        db,
        # By name, before the classes exist.
        code=relationship("ReferralCode", uselist=False, backref="owner"),
        visits=relationship("ReferralClick", foreign_keys="ReferralClick.referrer_user_id"),
    )
    app = make_app(db)
    referral.init_app(app, db, user_model=user)
    code = generate(app)[1]["code"]
    models = referral.models
    user.bought = relationship(
        models.ReferralConversion,
        primaryjoin=models.ReferralConversion.referred_user_id == user.id,
    )
    with app.app_context():
        ada = db.session.get(user, 1)
        assert ada.code.code == code
        assert ada.code.owner is ada
        visit = models.ReferralClick(referral_code=code)
        ada.visits.append(visit)
        db.session.add(user(id=2))
        db.session.flush()
        assert visit.referrer_user_id == 1
        bob = db.session.get(user, 2)
        bob.bought.append(
            models.ReferralConversion(
                referrer_user_id=1,
                referral_code=code,
                whop_membership_id="mem_1",
                bonus_cents=1000,
                metadata_={"plan": "gold"},
            )
        )
        db.session.commit()
        assert [conversion.metadata_ for conversion in bob.bought] == [{"plan": "gold"}]


def test_the_first_result_of_a_host_that_has_no_classes(db: SQLAlchemy, referral: Referral) -> None:
    """Nobody has asked anything of a mapped class by then."""
    users = sa.Table("users", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    app = make_app(db)
    referral.init_app(app, db, user_model=users)
    with app.app_context():
        db.create_all()
        db.session.execute(users.insert().values(id=1))
        code = referral.get_or_create_code(1)
        assert (code.user_id, len(code.code)) == (1, 8)


@pytest.mark.parametrize("own_metadata", [True, False])
def test_table_in_another_schema(db: SQLAlchemy, referral: Referral, own_metadata: bool) -> None:
    metadata = sa.MetaData() if own_metadata else db.metadata
    column = sa.Column("id", sa.Uuid, primary_key=True)
    users = sa.Table("users", metadata, column, schema="auth")
    app = make_app(db)
    referral.init_app(app, db, user_model=users)
    assert referral.user_key is column
    key = db.metadata.tables["referral_codes"].c.user_id
    assert isinstance(key.type, sa.Uuid)
    (foreign_key,) = key.foreign_keys
    assert foreign_key.column is column
    assert foreign_key.target_fullname == "auth.users.id"
    # The host's metadata does not own a table that it did not declare.
    assert ("auth.users" in db.metadata.tables) is not own_metadata


def test_key_column_under_another_name(db: SQLAlchemy, referral: Referral) -> None:
    user = type(
        "User",
        (db.Model,),
        {
            "__tablename__": "users",
            "account_id": sa.Column("id", sa.Integer, primary_key=True),
            "id": sa.Column("legacy_id", sa.Integer),
        },
    )
    app = make_app(db)
    referral.init_app(app, db, user_model=user)
    status, body = generate(app)
    with app.app_context():
        db.session.add(user(account_id=2, id=1))
        db.session.commit()
        assert referral.get_or_create_code(db.session.get(user, 2)).code != body["code"]
    assert status == 200


def test_user_key_and_wallet_table(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(db)
    app = make_app(db)
    referral.init_app(app, db, user_model=user)
    with app.app_context():
        assert referral.user_key is user.__table__.c.id
        assert referral.wallet_table is None
