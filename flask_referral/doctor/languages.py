"""Whether users read their language, and the host's own translations of our sentences fit."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from .. import words
from .findings import Check
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def languages(patient: Patient) -> t.Iterator[Finding]:
    """Whether the application's language is one that our sentences are in."""
    babel = words.hosts_babel()
    if "babel" not in patient.app.extensions:
        yield ok("Users read English, since Flask-Babel is not set up.")
    elif babel is None:
        yield warning(
            "Users read English: this application's Babel is not Flask-Babel 3 or newer.",
            "Install flask-referral[i18n] and set up Flask-Babel.",
        )
    elif not words.is_known(babel, default := babel.instance.default_locale):
        yield warning(
            f"BABEL_DEFAULT_LOCALE is {str(default)!r}, and nobody has flask-referral's sentences "
            "in it: wallets' descriptions, and whoever has that language, get English.",
            f"Translate {words.TEMPLATE} into {default}/LC_MESSAGES/{words.DOMAIN}.po of your "
            "translation folder, and compile that.",
        )
    if babel is not None:
        for folder in map(Path, babel.translation_directories):
            for path in sorted(folder.glob(f"*/LC_MESSAGES/{words.DOMAIN}.mo")):
                yield from _misfits(path)


def _misfits(path: Path) -> t.Iterator[Finding]:
    from babel.messages.mofile import read_mo

    with path.open("rb") as file:
        catalogue = read_mo(file)
    for message in catalogue:
        ids, translations = _texts(message.id), _texts(message.string)
        known = {name for id in ids for name in _PLACEHOLDER.findall(id)}
        # What is said without values is not looked at for them.
        if known and not all(_fits(text, known) for text in translations):
            yield fault(
                f"{path} translates {ids[0]!r} with placeholders that are not those of the "
                "sentence: whoever is to read it gets an error instead.",
                "Write each %(name)s as the English sentence has it, any other % as %%, and "
                "compile the catalogue again.",
            )


def _texts(text: str | t.Sequence[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or ())


def _fits(text: str, known: t.Iterable[str]) -> bool:
    try:
        text % dict.fromkeys(known, "")
    except (KeyError, TypeError, ValueError):
        return False
    return True


CHECKS = (Check("languages", languages, "There are sentences in the application's own language."),)
