"""The extensions, apart from the factory so that views can import them."""

from __future__ import annotations

from pathlib import Path

from flask_login import LoginManager
from flask_migrate import Migrate
from flask_wtf import CSRFProtect

from flask_referral import Referral

csrf = CSRFProtect()
login = LoginManager()
migrate = Migrate(directory=str(Path(__file__).resolve().parent / "migrations"))
referral = Referral()
