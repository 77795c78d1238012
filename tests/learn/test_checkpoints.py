"""Checkpoints on real disks, full ones and damaged ones, and processes that are killed while they write."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.learn.runs import CHECKED, ROOT, child, examples, mlp, start, state

from bowerbird.errors import LearnError
from bowerbird.learn.checkpoints import Checkpoints, replace_file
from bowerbird.learn.loop import History, Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import Batches, network_of

torch = pytest.importorskip("torch")


@pytest.fixture
def three(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.begin()
    for number in (1, 2, 3):
        checkpoints.write(number, state(number), CHECKED)
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_what_was_written_is_read(three: Checkpoints) -> None:
    found = three.latest(CHECKED)
    assert found["epoch"] == 3
    assert torch.equal(found["weights"]["a"], torch.full((1000,), 3.0))
    assert found["history"] == state(3)["history"]
    assert found["optimizer"]["param_groups"] == state(3)["optimizer"]["param_groups"]
    assert names(three) == ["epoch-0001.pt", "epoch-0002.pt", "epoch-0003.pt"]


@pytest.mark.parametrize(("keep", "left"), [(1, [12]), (3, [10, 11, 12]), (None, list(range(1, 13)))])
def test_old_ones_go(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    checkpoints.begin()
    for number in range(1, 13):
        checkpoints.write(number, state(number, 2), CHECKED)
    assert checkpoints.all() == [checkpoints.path(number) for number in left]


def test_none_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").latest(CHECKED) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    path.write_text("no checkpoint")


def flipped(path: Path) -> None:
    """One bit of a weight, which PyTorch itself would read without a word."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((4,), 3.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["epoch"] == 3


def hostile(path: Path) -> None:
    """A pickle that would run a program."""

    class Program:
        def __reduce__(self):
            return (Path.touch, (path.with_name("was-run"),))

    torch.save({"format": 1, "epoch": 3, "program": Program()}, path)


def newer(path: Path) -> None:
    torch.save({"format": 99}, path)


@pytest.mark.parametrize("harm", [cut, empty, other, flipped, hostile, newer])
def test_a_damaged_one_is_passed_over(three: Checkpoints, harm, caplog) -> None:
    harm(three.path(3))
    with caplog.at_level(logging.WARNING, "bowerbird"):
        assert three.latest(CHECKED)["epoch"] == 2
    assert f"{three.path(3)} cannot be read" in caplog.text
    assert not three.path(3).with_name("was-run").exists()


def test_all_of_them_damaged(three: Checkpoints) -> None:
    for path in three.all():
        cut(path)
    with pytest.raises(LearnError, match=r"None of the 3 checkpoints in .* can be read.* Remove the folder"):
        three.latest(CHECKED)


def test_other_settings_are_refused_by_name(three: Checkpoints) -> None:
    with pytest.raises(LearnError, match=r"lr was 0.1 and is 0.2; kind was null and is .x.\.") as caught:
        three.latest({**CHECKED, "lr": 0.2, "kind": "x"})
    assert "weights" not in str(caught.value)
    assert three.latest({**CHECKED, "epochs": 9}, free=("epochs",))["epoch"] == 3


def test_what_a_killed_process_left_is_removed(three: Checkpoints) -> None:
    draft = three.folder / "epoch-0004.pt.draft"
    draft.write_bytes(b"half")
    assert three.latest(CHECKED)["epoch"] == 3
    three.begin()
    assert not draft.exists()


WRITER = """
import sys
from pathlib import Path
from bowerbird.learn.checkpoints import Checkpoints
from tests.learn.runs import CHECKED, state
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.begin()
number = 0
while True:
    number += 1
    checkpoints.write(number, state(number, 400_000), CHECKED)
    print(number, flush=True)
"""


HALF = """
import os, signal, sys
from pathlib import Path
from bowerbird.learn.checkpoints import Checkpoints
from tests.learn.runs import CHECKED, state
class Half:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.begin()
checkpoints.write(1, state(1), CHECKED)
checkpoints.write(2, {**state(2), "last": Half()}, CHECKED)
"""


def test_killed_with_a_file_half_written(tmp_path: Path) -> None:
    child(HALF, tmp_path, expect=-9)
    checkpoints = Checkpoints(tmp_path)
    assert names(checkpoints) == ["epoch-0001.pt", "epoch-0002.pt.draft"]
    assert checkpoints.all() == [checkpoints.path(1)]
    assert checkpoints.latest(CHECKED)["epoch"] == 1


def test_killed_at_any_time(tmp_path: Path) -> None:
    process = start(WRITER, tmp_path)
    written = [int(process.stdout.readline()) for _ in range(3)]
    time.sleep(0.007)
    process.kill()
    written += [int(line) for line in process.communicate()[0].split()]
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.latest(CHECKED)
    # The last that was reported, or one that was done and could not be reported any more.
    assert found["epoch"] in (written[-1], written[-1] + 1)
    assert torch.equal(found["weights"]["a"], torch.full((400_000,), float(found["epoch"])))
    assert checkpoints.all()[-1] == checkpoints.path(found["epoch"])


WAITING = """
import sys
from pathlib import Path
from bowerbird.learn.loop import Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import Batches, network_of
from tests.learn.runs import examples, mlp

def progress(told):
    if (told.epoch, told.step) == (2, 1):
        print("in the second epoch", flush=True)
        sys.stdin.readline()

batches = Batches(examples(), mlp(), batch_size=10)
schedule = Schedule(epochs=3)
train(network_of(mlp()), batches, InfoNCE(), schedule, folder=Path(sys.argv[1]), progress=progress)
"""


def another(folder: Path, *, resume: bool = False) -> History:
    batches = Batches(examples(), mlp(), batch_size=10)
    return train(network_of(mlp()), batches, InfoNCE(), Schedule(epochs=3), folder=folder, resume=resume)


def test_a_second_run_is_kept_out_of_the_folder(tmp_path: Path) -> None:
    """Two processes: what the first has half written stays, and so does all else that is in the folder."""
    folder = tmp_path / "run"
    first = start(WAITING, folder)
    assert first.stdout.readline() == "in the second epoch\n", first.communicate()
    draft = folder / "checkpoints" / "epoch-0002.pt.draft"
    draft.write_bytes(b"half")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in (False, True):
        with pytest.raises(LearnError, match=f"^Another run is learning in {folder}. Wait until"):
            another(folder, resume=resume)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    draft.unlink()
    _, err = first.communicate("\n", timeout=60)
    assert first.returncode == 0, err
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "metrics.csv", "steps.csv"]
    with pytest.raises(LearnError, match="holds the checkpoints of another run"):
        another(folder)
    assert len(another(folder, resume=True).epochs) == 3


def test_what_kept_others_out_dies_with_its_process(tmp_path: Path) -> None:
    first = start(WAITING, tmp_path)
    assert first.stdout.readline() == "in the second epoch\n", first.communicate()
    first.kill()
    first.communicate()
    assert len(another(tmp_path, resume=True).epochs) == 3
    with pytest.raises(LearnError, match="holds the checkpoints of another run"):
        another(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.csv", "steps.csv"]


FULL = """
import sys
from pathlib import Path
from bowerbird.errors import StorageFullError
from bowerbird.learn.checkpoints import Checkpoints
from tests.learn.runs import CHECKED, state
folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder, keep=None)
checkpoints.begin()
try:
    for number in range(1, 20):
        checkpoints.write(number, state(number, int(sys.argv[2]) if number > 2 else 10), CHECKED)
except StorageFullError as error:
    print(error)
print(sorted(path.name for path in checkpoints.folder.iterdir()))
print(checkpoints.latest(CHECKED)["epoch"])
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system's own limit of a file's size: writing fails in the middle of the third checkpoint."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    said, files, last = child(limit + FULL, tmp_path, 100_000).splitlines()
    assert said.startswith(f"No space is left for {tmp_path / 'checkpoints' / 'epoch-0003.pt'}.")
    assert f"The last good checkpoint is {tmp_path / 'checkpoints' / 'epoch-0002.pt'}." in said
    assert said.endswith("Free some space and resume the run.")
    assert files == "['epoch-0001.pt', 'epoch-0002.pt']"
    assert last == "2"


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk of one MB in memory, seen by one process and those it starts."""
    can = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*can, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    mount = (
        "import subprocess, sys\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', sys.argv[1]], check=True)\n"
    )
    done = subprocess.run(
        [*can, sys.executable, "-c", mount + FULL, str(tmp_path), "60000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, files, last = done.stdout.splitlines()
    assert said.startswith("No space is left for")
    kept = eval(files)
    assert kept == [f"epoch-{number:04d}.pt" for number in range(1, len(kept) + 1)]
    assert len(kept) >= 4
    assert int(last) == len(kept)
    assert f"The last good checkpoint is {tmp_path / 'checkpoints' / kept[-1]}." in said


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(LearnError, match="cannot be written: file exists"):
        Checkpoints(tmp_path).begin()


def test_an_interrupted_file_is_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    replace_file(target, b"old")
    replace_file(target, b"new")
    assert target.read_bytes() == b"new"
    with pytest.raises(TypeError):
        replace_file(target, "no bytes")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
