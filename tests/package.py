"""Build the package and use it as somebody does who has no checkout; ``make package`` runs this.

The wheel and the source archive are left in ``dist/``.
"""

from __future__ import annotations

import contextlib
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = (
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info",
    "instance",
)  # fmt: skip
#: The wheel's folders and where the checkout keeps them.
PACKAGES = {"flask_referral/migrations/": "migrations", "flask_referral/": "flask_referral"}
REQUIREMENTS = {"flask", "flask-sqlalchemy", "flask-migrate", "psycopg2-binary", "nanoid"}
CONSUMER = """\
from flask_referral import generate_referral_code, Referral

reveal_type(Referral.get_or_create_code)
code: str = generate_referral_code()
"""


def main() -> None:
    """Run all steps; the first that fails ends the program with status 1."""
    with tempfile.TemporaryDirectory(prefix="flask-referral-package-") as folder:
        work = Path(folder)
        # A copy, because setuptools would also pack what an earlier build left in the checkout.
        source = work / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
        wheel = build(source, work)
        check_contents(wheel, source)
        python = install(wheel, work / "venv")
        away = work / "away"
        away.mkdir()
        shutil.copy(ROOT / "examples" / "quickstart.py", away)
        check_migrations(python, away)
        check_quickstart(python, away)
        check_types(python, away)
        for built in (work / "dist").iterdir():
            (ROOT / "dist").mkdir(exist_ok=True)
            shutil.copy(built, ROOT / "dist")
            say(f"kept dist/{built.name}")


def build(source: Path, work: Path) -> Path:
    """Build the source archive, a wheel from it, and a wheel from the sources."""
    for name, options in {"dist": [], "direct": ["--wheel"]}.items():
        run([sys.executable, "-m", "build", *options, "--outdir", work / name, source], work)
    (wheel,) = (work / "dist").glob("*.whl")
    (direct,) = (work / "direct").glob("*.whl")
    assert contents(wheel) == contents(direct), "The archive makes another wheel than the sources."
    say(f"built {wheel.name}, the same from the checkout and from the source archive")
    return wheel


def contents(wheel: Path) -> dict[str, int]:
    """Return the names of a wheel's files and their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: info.CRC
            for info in archive.infolist()
            # The record repeats the other files' checksums in an order that may vary.
            if not info.filename.endswith("/RECORD")
        }


def check_contents(wheel: Path, source: Path) -> None:
    """Compare the wheel with the sources, file by file, and look at its metadata."""
    expected = {
        target + path.relative_to(source / folder).as_posix()
        for target, folder in PACKAGES.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert found == expected, (
        f"The wheel lacks {sorted(expected - found)} and has {sorted(found - expected)}."
    )
    for name in ("py.typed", "migrations/alembic.ini", "migrations/script.py.mako"):
        assert f"flask_referral/{name}" in found, name
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        assert any("LICENSE" in name for name in archive.namelist())
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in required} == REQUIREMENTS, required
    assert metadata["Requires-Python"] == ">=3.11"
    say(f"it holds the {len(found)} files of flask_referral and migrations, and nothing else")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone in an environment of its own and return the interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], folder)
    run([python, "-m", "pip", "check"], folder)
    say("installed it in a clean environment")
    return python


def check_migrations(python: Path, away: Path) -> None:
    """Find the migrations in the installed package and run them, with stock commands too."""

    def flask(*args: str | Path) -> str:
        return run([python, "-m", "flask", "--app", "quickstart.py", *args], away)

    path = Path(flask("referral", "db", "path").strip())
    assert "site-packages" in path.parts and path.is_dir(), path
    flask("referral", "db", "downgrade", "base", "--yes")
    flask("referral", "db", "upgrade")
    flask("referral", "db", "check")
    flask("db", "check", "--directory", path)
    say(f"ran the migrations that lie in {path.relative_to(away.parent)}")


def check_quickstart(python: Path, away: Path) -> None:
    """Serve the quickstart and ask it for codes over HTTP."""
    with serve(python, away) as url:
        first, again = (generate(url, "ada") for _ in range(2))
        assert first == again and re.fullmatch("[2-9A-HJ-NP-Z]{8}", first["code"]), first
        assert generate(url, "bob")["code"] != first["code"]
        try:
            generate(url, "nobody")
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
        else:
            raise AssertionError("A stranger got a code.")
        page = get(url, "/referral/")
        assert first["code"] in page, page
        (sheet,) = re.findall(r'href="(/referral/assets/[^"]+)"', page)
        assert "--referral-accent" in get(url, sheet)
    say(f"the quickstart answered with the code {first['code']}, and showed it on the page")


@contextlib.contextmanager
def serve(python: Path, away: Path) -> t.Iterator[str]:
    """Run the quickstart's server on a free port and yield its URL."""
    command = [python, "-m", "flask", "--app", "quickstart.py", "run", "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=away,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        log = []
        try:
            for line in t.cast(t.IO[str], server.stderr):
                log.append(line)
                if match := re.search(r"Running on (http://\S+)", line):
                    yield match[1]
                    return
            raise AssertionError("The quickstart's server did not start.")
        except BaseException:
            server.terminate()
            log.extend(t.cast(t.IO[str], server.stderr))
            print("".join(log), file=sys.stderr)
            raise
        finally:
            server.terminate()


def generate(url: str, user: str) -> dict[str, str]:
    """Ask for a user's code."""
    request = urllib.request.Request(
        f"{url}/api/referral/generate", method="POST", headers={"X-User": user}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        body: dict[str, str] = json.load(answer)
        return body


def get(url: str, path: str) -> str:
    """Ask for a page or a file of it, as the user whom the quickstart has."""
    request = urllib.request.Request(f"{url}{path}", headers={"X-User": "ada"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def check_types(python: Path, away: Path) -> None:
    """Let mypy look at code that uses the installed package."""
    (away / "consumer.py").write_text(CONSUMER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "consumer.py"]
    assert "ReferralCodeMixin" in run(mypy, away)
    say("mypy sees its types")


def environment() -> dict[str, str]:
    """Return the environment without what would lead back to the checkout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MYPYPATH")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def run(command: t.Sequence[str | Path], cwd: Path) -> str:
    """Run a command and return what it prints; its failure ends the program."""
    result = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def say(text: str) -> None:
    """Print one finished step."""
    print(f"package: {text}", flush=True)


if __name__ == "__main__":
    main()
