"""The catalogues of what users read; ``make messages`` runs this.

Takes the sentences out of the package, brings each ``.po`` in line with them and compiles it. What
is not translated then, or not well, is said, and the program ends with status 1.
"""

from __future__ import annotations

import io
import re
import sys
import typing as t
from pathlib import Path

from babel.messages import Catalog
from babel.messages import Message
from babel.messages.extract import DEFAULT_KEYWORDS
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.messages.pofile import write_po

from flask_referral.words import DOMAIN
from flask_referral.words import LANGUAGES
from flask_referral.words import TEMPLATE
from flask_referral.words import TRANSLATIONS

PACKAGE = TRANSLATIONS.parent
#: Which files have sentences, and how they are read.
METHODS = [("templates/**.html", "jinja2"), ("**.py", "python")]
KEYWORDS: dict[str, t.Any] = {
    **{name: DEFAULT_KEYWORDS[name] for name in ("gettext", "ngettext")},
    "gettext_noop": None,
    "stored_gettext": None,
}
#: What the catalogues are written in; the same whoever writes them, and whenever.
HEADER = r"""# What flask-referral says to users.
# "make messages" keeps this file in line with the package; only translations are written here.
msgid ""
msgstr ""
"MIME-Version: 1.0\n"
"Content-Type: text/plain; charset=utf-8\n"
"Content-Transfer-Encoding: 8bit\n"
"""
PLACEHOLDER = re.compile(r"%\((\w+)\)s")
#: How a sentence ends, in each script.
ENDS = {".": ".。", "?": "?？؟", "!": "!！", ":": ":：", "…": "…"}  # noqa: RUF001


def main() -> None:
    """Write what has changed and say what is wrong."""
    source = extracted()
    save(TEMPLATE, pot_text(source).encode())
    wrong: list[str] = []
    for language in LANGUAGES:
        catalogue = updated(language, source)
        save(po_file(language), po_text(catalogue).encode())
        compiled = mo_file(language)
        if not compiled.exists() or sentences(stored(compiled)) != sentences(catalogue):
            save(compiled, mo_bytes(catalogue))
        wrong += faults(catalogue, source)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        sys.exit(f"{len(wrong)} sentences are to be translated or mended in {TRANSLATIONS}")
    print(f"{len(source)} sentences in {len(LANGUAGES)} languages")


def po_file(language: str) -> Path:
    return TRANSLATIONS / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def mo_file(language: str) -> Path:
    return po_file(language).with_suffix(".mo")


def extracted() -> Catalog:
    """Return the sentences of the package and where they stand."""
    found = Catalog()
    for name, _, message, comments, context in extract_from_dir(
        str(PACKAGE), METHODS, {}, KEYWORDS, comment_tags=("Translators:",), strip_comment_tags=True
    ):
        place = f"{PACKAGE.name}/{name}"
        found.add(message, None, [(place, 0)], auto_comments=comments, context=context)
    return found


def stored(path: Path) -> Catalog:
    """Return the catalogue of a ``.po`` or a ``.mo``."""
    with path.open("rb") as file:
        if path.suffix == ".mo":
            return read_mo(file)
        return read_po(file, locale=path.parent.parent.name, domain=DOMAIN)


def updated(language: str, source: Catalog) -> Catalog:
    """Return a language's catalogue with exactly the sentences of the package."""
    path = po_file(language)
    catalogue = stored(path) if path.exists() else Catalog(locale=language, domain=DOMAIN)
    catalogue.update(source, no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    if language == "en":
        # The sentences are English.
        for message in own(catalogue):
            message.string = message.id
    return catalogue


def po_text(catalogue: Catalog) -> str:
    """Return a language's catalogue as it is kept, without what changes from day to day."""
    forms = f"Language: {catalogue.locale_identifier}", f"Plural-Forms: {catalogue.plural_forms}"
    return HEADER + "".join(f'"{line}\\n"\n' for line in forms) + _body(catalogue)


def pot_text(source: Catalog) -> str:
    """Return the template as it is kept."""
    return HEADER + _body(source)


def _body(catalogue: Catalog) -> str:
    text = io.BytesIO()
    write_po(text, catalogue, width=100, omit_header=True, include_lineno=False)
    return f"\n{text.getvalue().decode()}"


def mo_bytes(catalogue: Catalog) -> bytes:
    """Return a catalogue as programs read it."""
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    return compiled.getvalue()


def write_catalogue(
    folder: Path, locale: str, sentences: t.Mapping[t.Any, t.Any], domain: str = DOMAIN
) -> str:
    """Compile a host's own catalogue and return its folder, as the setting names it."""
    catalogue = Catalog(locale=locale)
    if locale in LANGUAGES:
        # Older Babels count in Arabic by another rule.
        catalogue.mime_headers = [("Plural-Forms", stored(po_file(locale)).plural_forms)]
    for sentence, translation in sentences.items():
        catalogue.add(sentence, translation)
    path = folder / locale / "LC_MESSAGES" / f"{domain}.mo"
    path.parent.mkdir(parents=True)
    path.write_bytes(mo_bytes(catalogue))
    return str(folder)


def save(path: Path, content: bytes) -> None:
    """Write a file unless it has that content."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"wrote {path.relative_to(PACKAGE.parent)}")


def own(catalogue: Catalog) -> list[Message]:
    """Return a catalogue's sentences without its header."""
    return [message for message in catalogue if message.id]


def sentences(catalogue: Catalog) -> dict[t.Any, t.Any]:
    """Return the translations by what they translate."""
    return {_forms(message.id): _forms(message.string) for message in own(catalogue)}


def faults(catalogue: Catalog, source: Catalog) -> list[str]:
    """Return what is wrong with a language's sentences, a line for each."""
    language = catalogue.locale_identifier
    translated = {_forms(message.id): message for message in own(catalogue)}
    found = []
    for message in own(source):
        ids = _forms(message.id)
        for fault in _faults(translated.pop(ids, None), message, catalogue.num_plurals):
            found.append(f"{language}: {ids[0]!r} {fault}")
    return found + [f"{language}: {ids[0]!r} is said nowhere" for ids in translated]


def _faults(translated: Message | None, message: Message, num_plurals: int) -> t.Iterator[str]:
    if translated is None or not any(forms := _forms(translated.string)):
        yield "is not translated"
        return
    if translated.fuzzy:
        yield "is fuzzy"
    ids = _forms(message.id)
    if not all(forms) or len(forms) != (num_plurals if message.pluralizable else 1):
        yield "lacks a plural form"
    known = set().union(*map(_placeholders, ids))
    for form in forms:
        # "One visit" needs no number.
        if _placeholders(form) - {"num"} != known - {"num"} or not _placeholders(form) <= known:
            yield f"has other placeholders in {form!r}"
        if (known or message.pluralizable) and "%" in PLACEHOLDER.sub("", form).replace("%%", ""):
            yield f"has a bare '%' in {form!r}"
        last, end = ids[-1][-1], form[-1:]
        if end not in ENDS.get(last, end) or (last not in ENDS and end in "".join(ENDS.values())):
            yield f"ends otherwise in {form!r}"
        if form != form.strip():
            yield f"has blanks around {form!r}"


def _forms(text: str | t.Sequence[str] | None) -> tuple[str, ...]:
    return (text or "",) if text is None or isinstance(text, str) else tuple(text)


def _placeholders(text: str) -> set[str]:
    return set(PLACEHOLDER.findall(text))


if __name__ == "__main__":
    main()
