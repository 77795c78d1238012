"""What tests share: a private place for data and caches, the model, small pictures, and the real command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import bowerbird as bb

if TYPE_CHECKING:
    from tests.store.postgres_server import Server

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says what else the machine does.
settings.register_profile("no deadline", parent=settings(), deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def private_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's own indexes, caches or settings."""
    base = tmp_path_factory.mktemp("bowerbird")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BOWERBIRD_")]:
            patch.delenv(name)
        patch.setenv("BOWERBIRD_DATA_DIR", str(base / "data"))
        # Shared by all tests of a run: what the engines are probed for is found out once.
        patch.setenv("BOWERBIRD_CACHE_DIR", str(base / "cache"))
        yield base


@pytest.fixture(scope="session")
def model(private_places: Path) -> bb.Encoder:
    """The embedded model."""
    return bb.load("mini")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Pictures that lie beside the repository, not in it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"{path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def photographs() -> dict[str, Path]:
    """Real photographs that come with the package, by name: chelsea (a cat), coffee, rocket, ..."""
    folder = Path(bb.__file__).parent / "models" / "probe"
    return {path.stem: path for path in folder.glob("*.jpg")}


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Bytes of a small picture of random blocks; another seed gives another picture."""

    def make(seed: int, format: str = "PNG", size: tuple[int, int] = (64, 64), **options: object) -> bytes:
        blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        stream = io.BytesIO()
        image = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
        image.save(stream, format, **options)
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A running PostgreSQL with pgvector; each test takes a database of its own."""
    from tests.store.postgres_server import serving

    with serving() as server:
        yield server


@dataclass
class Result:
    """What a process left behind."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode("utf-8")

    @property
    def rows(self) -> list[tuple[float, str]]:
        """Lines of `score<TAB>path`."""
        pairs = (line.split("\t") for line in os.fsdecode(self.raw).splitlines())
        return [(float(score), path) for score, path in pairs]

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.rows]


@dataclass
class Command:
    """The installed `bowerbird`, with a data directory of its own for each test."""

    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (str(Path(sys.executable).parent / "bowerbird"),)

    def start(self, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, **more):
        """Start it and come back at once."""
        arguments = [word if isinstance(word, bytes) else os.fsencode(str(word)) for word in words]
        return subprocess.Popen(
            [*map(os.fsencode, self.program), *arguments],
            cwd=cwd or self.cwd,
            env={**os.environ, **self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )

    def finish(self, process: subprocess.Popen[bytes], code: int | None = 0, seconds: float = 60) -> Result:
        """Wait for it; whatever happened, no traceback may reach the user."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        result = Result(process.returncode, out or b"", (err or b"").decode("utf-8", "replace"))
        assert "Traceback" not in result.err, result.err
        assert "defect" not in result.err, result.err
        if code is not None:
            assert result.code == code, f"exit {result.code}: {result.err}"
        return result

    def __call__(self, *words: object, code: int | None = 0, **more) -> Result:
        return self.finish(self.start(*words, **more), code)

    def records(self) -> dict[str, Path]:
        """The indexes in the data directory."""
        return {path.name: path for path in Path(self.env["BOWERBIRD_DATA_DIR"]).glob("indexes/*.bower")}


@pytest.fixture
def run(tmp_path: Path) -> Command:
    """Run `bowerbird` as a user does: a process, with files, in a folder."""
    command = Command(tmp_path, {"BOWERBIRD_DATA_DIR": str(tmp_path / "data-of-bowerbird")})
    if not Path(command.program[0]).exists():
        pytest.skip(f"{command.program[0]} is not installed")
    return command
