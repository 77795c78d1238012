"""Write what the TypeScript client is made of: the service's OpenAPI document, and the types generated from it.

    python tools/make_typescript.py            # then: git diff clients/typescript

Needs Node with npm, and `npm ci` in clients/typescript.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "typescript"


def document() -> str:
    """The OpenAPI document of the service, as it is committed."""
    from bowerbird.serve.api.app import build
    from bowerbird.serve.service import LocalService

    found = build(LocalService("", ["mini"])).app.openapi()
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both."""
    (CLIENT / "openapi.json").write_text(document(), "utf-8")
    subprocess.run(["npm", "run", "generate"], cwd=CLIENT, check=True)


if __name__ == "__main__":
    main()
