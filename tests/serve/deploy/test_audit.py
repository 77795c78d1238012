"""The audit finds what is known, and says so where nothing could be asked."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[3] / "tools" / "audit.py"
NOWHERE = "http://127.0.0.1:9"
"""The port of a service that nobody runs: connections are refused."""

pytestmark = pytest.mark.slow

needs_pip_audit = pytest.mark.skipif(
    importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed"
)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


def told_by_osv(asked: dict) -> dict:
    """As osv.dev answers: two packages have a vulnerability."""
    name = asked["package"]["name"]
    if name not in ("urllib3", "holey"):
        return {}
    events = [{"introduced": "0"}, {"fixed": "9.9"}]
    affected = {"package": asked["package"], "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {
        "vulns": [
            {
                "id": f"PYSEC-{name}",
                "summary": "A hole.",
                "published": "2019-01-01T00:00:00Z",
                "affected": [affected],
            }
        ]
    }


def told_by_npm(asked: dict) -> dict:
    """As npm's registry answers."""
    fault = {"title": "A hole", "url": "https://advisories/GHSA-hole", "severity": "high", "id": 1}
    return {
        name: [{**fault, "vulnerable_versions": "<9", "cwe": [], "cvss": {"score": 7}}]
        for name in asked
        if name in ("lodash", "holey")
    }


class Advisories(BaseHTTPRequestHandler):
    """Both sources, on one port."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        said = told_by_osv if self.path.endswith("/query") else told_by_npm
        answer = json.dumps(said(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def source() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(folder: Path, package: str, *words: str, osv: str, npm: str) -> subprocess.CompletedProcess[str]:
    """Audit a project that needs one package, as Python and as Node see it."""
    (folder / "requirements.txt").write_text(f"{package}==1.0\n")
    project = {"name": "client", "version": "1.0.0", "dependencies": {package: "1.0.0"}}
    (folder / "package.json").write_text(json.dumps(project))
    packages = {"": project, f"node_modules/{package}": {"version": "1.0.0"}}
    (folder / "package-lock.json").write_text(
        json.dumps({"name": "client", "version": "1.0.0", "lockfileVersion": 3, "packages": packages})
    )
    where = ["--requirements", str(folder / "requirements.txt"), "--client", str(folder)]
    command = [
        sys.executable,
        str(AUDIT),
        *where,
        "--osv-url",
        f"{osv}/v1/query",
        "--npm-registry",
        f"{npm}/",
    ]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=False)


@needs_pip_audit
@needs_npm
def test_what_is_known_fails_the_audit_and_is_named(source: str, tmp_path: Path):
    done = audit(tmp_path, "holey", osv=source, npm=source)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "holey 1.0: PYSEC-holey, mended in 9.9" in done.stdout
    assert "holey: high, A hole" in done.stdout


@needs_pip_audit
@needs_npm
def test_nothing_known_passes(source: str, tmp_path: Path):
    done = audit(tmp_path, "sound", "--strict", osv=source, npm=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Python packages: no known vulnerabilities" in done.stdout
    assert "clients/typescript: no known vulnerabilities" in done.stdout


@needs_pip_audit
@needs_npm
def test_a_source_that_is_not_reached_is_said_so(tmp_path: Path):
    done = audit(tmp_path, "holey", osv=NOWHERE, npm=NOWHERE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("NOT AUDITED") == 2
    assert "no known" not in done.stdout
    assert audit(tmp_path, "holey", "--strict", osv=NOWHERE, npm=NOWHERE).returncode == 2


@needs_pip_audit
@needs_npm
def test_a_source_that_knows_nothing_is_not_believed(source: str, tmp_path: Path, monkeypatch):
    """As a mirror of packages without their advisories: it answers, and knows of no vulnerability at all."""
    monkeypatch.setitem(globals(), "told_by_osv", lambda asked: {})
    monkeypatch.setitem(globals(), "told_by_npm", lambda asked: {})
    done = audit(tmp_path, "holey", osv=source, npm=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("NOT AUDITED") == 2
    assert "knows no vulnerability even of urllib3" in done.stdout
