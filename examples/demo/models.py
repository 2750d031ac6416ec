"""The product's own tables; :mod:`flask_referral` adds its tables to the same metadata."""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from flask_login import UserMixin
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import registry
from sqlalchemy.orm import relationship
from werkzeug.security import check_password_hash
from werkzeug.security import generate_password_hash

TRANSACTION_TYPES = ("deal_payment", "affiliate_commission", "withdrawal", "adjustment")
REFERENCE_TYPES = ("deal_enrollment", "affiliate_conversion", "manual")


class Base(DeclarativeBase):
    registry = registry(
        type_annotation_map={str: sa.Text(), dt.datetime: sa.DateTime(timezone=True)}
    )


db = SQLAlchemy(model_class=Base)


class User(UserMixin, db.Model):  # type: ignore[name-defined,misc]
    """Somebody with an account."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: in lower case
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    #: Whether this is somebody who runs Larkmail.
    is_operator: Mapped[bool] = mapped_column(server_default=sa.false())
    created_at: Mapped[dt.datetime] = mapped_column(server_default=sa.func.now())

    def check_password(self, password: str) -> bool:
        return check_password_hash(self.password_hash, password)


class Purchase(db.Model):  # type: ignore[name-defined,misc]
    """A subscription that was bought."""

    __tablename__ = "purchases"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey(User.id, ondelete="CASCADE"), index=True)
    plan: Mapped[str]
    amount_cents: Mapped[int]
    #: The payment provider's name for the subscription.
    membership_id: Mapped[str] = mapped_column(
        unique=True, default=lambda: f"mem_{uuid.uuid4().hex}"
    )
    created_at: Mapped[dt.datetime] = mapped_column(server_default=sa.func.now())
    payments: Mapped[list[Payment]] = relationship(
        order_by="Payment.id", back_populates="purchase", passive_deletes=True
    )

    @property
    def is_running(self) -> bool:
        """Whether another period may be charged: the last payment was neither taken back whole
        nor is disputed."""
        last = self.payments[-1]
        return last.left_cents > 0 and last.dispute != "open"


class Payment(db.Model):  # type: ignore[name-defined,misc]
    """What the payment provider charged for one period of a subscription."""

    __tablename__ = "payments"
    __table_args__ = (
        sa.CheckConstraint(
            "refunded_cents BETWEEN 0 AND amount_cents", name="payments_refunded_cents_check"
        ),
        sa.CheckConstraint("dispute IN ('open', 'won')", name="payments_dispute_check"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    purchase_id: Mapped[int] = mapped_column(
        sa.ForeignKey(Purchase.id, ondelete="CASCADE"), index=True
    )
    #: The payment provider's name for it.
    payment_id: Mapped[str] = mapped_column(unique=True, default=lambda: f"pay_{uuid.uuid4().hex}")
    amount_cents: Mapped[int]
    refunded_cents: Mapped[int] = mapped_column(server_default="0")
    #: None, ``open`` or ``won``
    dispute: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=sa.func.now())
    purchase: Mapped[Purchase] = relationship(back_populates="payments")

    @property
    def left_cents(self) -> int:
        """What was not refunded, in cents."""
        return self.amount_cents - self.refunded_cents


class WalletTransaction(db.Model):  # type: ignore[name-defined,misc]
    """A movement of money in a user's wallet; rows are added and never changed."""

    __tablename__ = "wallet_transactions"
    __table_args__ = (
        sa.CheckConstraint(
            sa.column("type").in_(TRANSACTION_TYPES), name="wallet_transactions_type_check"
        ),
        sa.CheckConstraint(
            sa.column("reference_type").in_(REFERENCE_TYPES),
            name="wallet_transactions_reference_type_check",
        ),
        sa.Index("ix_wallet_transactions_user_id_created_at_id", "user_id", "created_at", "id"),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger(), primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey(User.id, ondelete="CASCADE"))
    amount_cents: Mapped[int]
    #: Filled by the trigger ``calculate_balance_after``.
    balance_after_cents: Mapped[int] = mapped_column(server_default=sa.FetchedValue())
    type: Mapped[str]
    reference_type: Mapped[str | None]
    reference_id: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="completed")
    description: Mapped[str | None]
    #: The column ``metadata``, a name that mapped classes cannot use.
    details: Mapped[dict[str, t.Any] | None] = mapped_column("metadata", JSONB)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=sa.func.now())


def add_user(email: str, name: str, password: str) -> User | None:
    """Store a user; answer None where somebody has an account with this address already."""
    row = {
        "email": email.lower(),
        "name": name,
        "password_hash": generate_password_hash(password),
    }
    new = insert(User).values(row).on_conflict_do_nothing(index_elements=[User.email])
    return db.session.scalar(new.returning(User))
