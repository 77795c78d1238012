"""The README, the docs and ARCHITECTURE.md are tested: what they show runs, and what they name exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image
from tests.serve.command import options

from bowerbird.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    lines = [line[2:].split("  #")[0].strip() for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line.startswith("bowerbird ")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a Pictures folder, and pictures of the names that the README uses."""
    from bowerbird.models.network.precision import probe_pictures

    home = tmp_path_factory.mktemp("home")
    for folder in ("Pictures", "photos"):
        (home / folder).mkdir()
    for number, data in enumerate(probe_pictures()):
        (home / "Pictures" / f"{number}.jpg").write_bytes(data)
    for name in ("Pictures/holiday.jpg", "Pictures/look.jpg", "photos/dress.jpg"):
        Image.effect_noise((300 + len(name), 300), 60).convert("RGB").save(home / name)
    return home


def test_every_command_of_the_readme_runs(home: Path, run) -> None:
    shown = commands()
    assert len(shown) >= 10
    for command in shown:
        words = [word.replace("~", str(home)) for word in shlex.split(command)[1:]]
        if words[-1] == "*.jpg":  # the shell's part
            words[-1:] = sorted(path.name for path in (home / "Pictures").glob("*.jpg"))
        run(*words, cwd=home / "Pictures", env={"BROWSER": "true"})


def test_the_python_of_the_readme_and_of_the_models_page_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(home)
    shutil.rmtree(home / "photos.bower", ignore_errors=True)
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert len(scope["hits"]) == 1  # type: ignore[arg-type]
    (block,) = blocks("python", MODELS)
    exec(compile(block, "models.md", "exec"), scope)
    assert (home / "by-layer.bower").is_dir()
    assert capsys.readouterr().out == ""


def test_what_the_docs_show_of_the_command_line_exists(run) -> None:
    """Commands that need a network or PyTorch are not run here, but their verbs and options must be there."""
    lines = [
        line
        for page in PAGES
        for block in blocks("sh", page.read_text("utf-8"))
        for line in block.splitlines()
    ]
    shown = [
        command.split("  #")[0] for line in lines for command in line.split("&&") if "bowerbird " in command
    ]
    helps: dict[tuple[str, ...], str] = {}
    for command in shown:
        words = shlex.split(command[command.index("bowerbird ") :])
        verb = tuple(words[1:3]) if words[1:3] == ["models", "pull"] else (words[1],)
        if "install" in command:
            continue
        text = helps.setdefault(verb, run(*verb, "--help").out)
        for option in (word for word in words if word.startswith("-")):
            assert option in text, f"{command}: {option}"
    assert {("export",), ("golden",), ("verify",), ("models", "pull")} <= set(helps)


def test_the_settings_table_is_complete() -> None:
    named = set(re.findall(r"`BOWERBIRD_([A-Z_]+)`", README))
    assert {field.name.upper() for field in fields(Settings)} <= named
    of_verbs = {"TOP", "DEBUG", "MIN_MATCH", "PORT", "MODEL_TTL", "API_KEYS_FILE"}
    for name in named - of_verbs:
        assert hasattr(Settings, name.lower()), name
    assert PREFIX == "BOWERBIRD_"


def test_every_option_of_the_service_has_the_twin_that_the_readme_says() -> None:
    twins = {word: twin for word, twin in options("serve").items() if re.match("--(?!no-)", word)}
    assert twins.pop("--api-keys") == "BOWERBIRD_API_KEYS_FILE"
    assert len(twins) > 20
    assert twins == {word: f"BOWERBIRD_{word[2:].replace('-', '_').upper()}" for word in twins}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    package = ROOT / "src" / "bowerbird"
    for path in package.rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name != "cli":
            assert path.name in text, f"ARCHITECTURE.md does not name {path.relative_to(package)}"
    for name in re.findall(r"\b(\w+\.py)\b", text):
        found = any(any(folder.rglob(name)) for folder in (package, ROOT / "tests", ROOT / "tools"))
        assert found, f"ARCHITECTURE.md names {name}, which is not there"


def test_every_make_target_named_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for target in re.findall(r"`?\$? ?make ([a-z-]+)", page.read_text("utf-8")):
            if target in ("a", "sure", "pictures"):
                continue
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_no_path_of_a_machine_in_the_project() -> None:
    home = os.path.expanduser("~")
    for page in PAGES:
        assert home not in page.read_text("utf-8")
