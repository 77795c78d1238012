"""Write deploy/constraints.txt: the versions that the image is built with.

    python tools/make_constraints.py      # what `make constraints` runs

pip is asked what it would install today, on the platform and the Python that it runs on; nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "deploy" / "constraints.txt"
WHAT = "serve,s3"
"""Extras that the image has; deploy/Dockerfile names the same."""

HEAD = f"""\
# What the image holds, to the version: `pip install --constraint deploy/constraints.txt 'bowerbird[{WHAT}]'`.
# Made with `make constraints`; the tests hold it against pyproject.toml.
"""


def main() -> None:
    """Ask pip, and write."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    done = subprocess.run(
        [*command, "--report", "-", f"{ROOT}[{WHAT}]"], check=True, stdout=subprocess.PIPE, text=True
    )
    packages = [one["metadata"] for one in json.loads(done.stdout)["install"]]
    lines = sorted(
        (f"{one['name']}=={one['version']}\n" for one in packages if one["name"] != "bowerbird"),
        key=str.lower,
    )
    PLACE.write_text(HEAD + "".join(lines))
    print(f"{len(lines)} packages in {PLACE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
