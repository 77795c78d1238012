"""What an ingress serves: the API, and the page."""

from __future__ import annotations

from typing import Any

from bowerbird.serve.api.app import build
from bowerbird.serve.cluster.plan import Deployed
from bowerbird.serve.service import Service


def front(service: Service, deployed: Deployed) -> Any:
    """The ASGI application of an ingress.

    Args:
        service: that answers.
        deployed: what was asked for.
    """
    return build(service, fetch_urls=deployed.fetch_urls)
