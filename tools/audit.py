"""Known vulnerabilities of what is installed, and of what the TypeScript client is built with.

    python tools/audit.py                 # what `make audit` and CI run
    python tools/audit.py --strict        # fails, too, where no source of advisories is reached

pip-audit asks PyPI, or OSV where PyPI does not tell; `npm audit` asks npm's registry. Either says "nothing found" where
its source knows nothing at all, as behind a mirror. So each source is first asked about a package whose vulnerabilities
are old and well known: if it knows none of them, nothing was audited, and that is what is said.

Exit codes: 0 nothing was found, or nothing could be asked; 1 something was found; 2 nothing could be asked, and
`--strict` was given.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients" / "typescript"

PROBE = "urllib3==1.24.1"
"""Of 2018, with advisories since 2019."""

NPM_PROBE = {"name": "probe", "version": "1.0.0", "dependencies": {"lodash": "4.17.4"}}
NPM_LOCK = {
    "name": "probe",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "packages": {"": NPM_PROBE, "node_modules/lodash": {"version": "4.17.4"}},
}
"""A lock file by hand: nothing is fetched but the advisories."""

ACCEPTED: dict[str, str] = {}
"""Ids of advisories that do not concern this project -> why. They are printed with every audit."""

SECONDS = 300.0


class UnreachedError(Exception):
    """No source of advisories answers; the message says how."""


def main() -> int:
    """Audit, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strict", action="store_true", help="fail where nothing can be asked")
    parser.add_argument("--osv-url", default="", help="ask this OSV service and no other")
    parser.add_argument("--npm-registry", default="", help="ask this registry")
    parser.add_argument("--requirements", type=Path, help="audit this file, not what is installed")
    parser.add_argument("--client", type=Path, default=CLIENT, help="folder of the TypeScript client")
    given = parser.parse_args()
    for id_, why in ACCEPTED.items():
        print(f"accepted: {id_}: {why}")
    found = unasked = 0
    for name, audit in (
        ("Python packages", lambda: python(given.osv_url, given.requirements)),
        ("clients/typescript", lambda: node(given.client, given.npm_registry)),
    ):
        try:
            lines = audit()
        except UnreachedError as error:
            unasked += 1
            print(f"{name}: NOT AUDITED: {error}")
            continue
        found += len(lines)
        print(f"{name}: {len(lines) or 'no'} known vulnerabilities")
        print("".join(f"  {line}\n" for line in lines), end="")
    return 1 if found else 2 if unasked and given.strict else 0


def python(osv_url: str = "", requirements: Path | None = None) -> list[str]:
    """A line for each vulnerability of a Python package.

    Raises:
        UnreachedError: neither PyPI nor OSV tells of vulnerabilities.
    """
    if importlib.util.find_spec("pip_audit") is None:
        raise UnreachedError("pip-audit is not installed (it comes with bowerbird[dev])")
    sources = [("osv", "--osv-url", osv_url)] if osv_url else [("pypi",), ("osv",)]
    why = []
    for source, *more in sources:
        try:
            with tempfile.TemporaryDirectory() as folder:
                probe = Path(folder, "probe.txt")
                probe.write_text(f"{PROBE}\n")
                known = _pip_audit(source, *more, "--no-deps", "--disable-pip", "-r", str(probe))
        except UnreachedError as error:
            why.append(f"{source}: {error}")
            continue
        if not any(package.get("vulns") for package in known):
            why.append(f"{source}: knows no vulnerability even of {PROBE}")
            continue
        what = (
            ["--no-deps", "--disable-pip", "-r", str(requirements)]
            if requirements
            else ["--local", "--skip-editable"]
        )
        packages = _pip_audit(source, *more, *what)
        for package in packages:
            if reason := package.get("skip_reason"):
                print(f"  left out: {package['name']}: {reason}")
        return [
            f"{package['name']} {package['version']}: {fault['id']}"
            + (f", mended in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "")
            for package in packages
            for fault in package.get("vulns", ())
            if not ACCEPTED.keys() & {fault["id"], *fault.get("aliases", ())}
        ]
    raise UnreachedError("; ".join(why))


def _pip_audit(source: str, *words: str) -> list[dict[str, Any]]:
    """What pip-audit says of each package."""
    done = _run(
        [sys.executable, "-m", "pip_audit", "-s", source, "-f", "json", "--progress-spinner", "off", *words]
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise UnreachedError(_last(done.stderr)) from None
    return found


def node(folder: Path = CLIENT, registry: str = "") -> list[str]:
    """A line for each vulnerable package that the TypeScript client is built with.

    Raises:
        UnreachedError: npm is not there, or its registry does not tell of vulnerabilities.
    """
    if shutil.which("npm") is None:
        raise UnreachedError("npm is not installed")
    if not (folder / "package-lock.json").is_file():
        raise UnreachedError(f"there is no package-lock.json in {folder.name}")
    with tempfile.TemporaryDirectory() as probe:
        Path(probe, "package.json").write_text(json.dumps(NPM_PROBE))
        Path(probe, "package-lock.json").write_text(json.dumps(NPM_LOCK))
        if not _npm_audit(Path(probe), registry):
            raise UnreachedError("npm's registry knows no vulnerability even of lodash 4.17.4")
    return [
        f"{name} {fault.get('range', '')}".rstrip()
        + f": {fault.get('severity', '')}"
        + (f", {', '.join(titles)}" if titles else "")
        for name, fault in _npm_audit(folder, registry).items()
        if not ACCEPTED.keys() & {one.get("url", "").rpartition("/")[2] for one in _advisories(fault)}
        for titles in [[one["title"] for one in _advisories(fault) if "title" in one]]
    ]


def _advisories(fault: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in fault.get("via", ()) if isinstance(one, dict)]


def _npm_audit(folder: Path, registry: str) -> dict[str, Any]:
    """What npm says of each vulnerable package."""
    where = ["--registry", registry] if registry else []
    done = _run(["npm", "audit", "--json", "--package-lock-only", "--fetch-retries=0", *where], folder)
    try:
        told = json.loads(done.stdout)
        found: dict[str, Any] = told["vulnerabilities"]
    except (ValueError, KeyError, TypeError):
        said = [line for line in done.stderr.splitlines() if "audit" in line]
        raise UnreachedError(_last("\n".join(said) or done.stderr)) from None
    return found


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired:
        raise UnreachedError(f"no answer within {SECONDS:g} s") from None


def _last(text: str) -> str:
    """The last line of what a program complained of, as far as people read it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].partition(": HTTP")[0].partition("://")[0][:200] if lines else "no answer"


if __name__ == "__main__":
    sys.exit(main())
