"""Who may ask, as whoever starts the service says it: origins of pages, names of this machine, addresses of proxies.

They are compared with what browsers and proxies send, as it stands. One that can never be sent would do nothing, and
nobody would know why; so it is refused when the service starts. What lets in more than the usual is told then.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from bowerbird.errors import BowerbirdError

__all__ = ["check_callers", "open_doors"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]A-Z]+)(:[0-9]{1,5})?")
_USUAL_PORT = re.compile(r"(http://.*):80|(https://.*):443")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+")


def check_callers(
    *, origins: Sequence[str] = (), hosts: Sequence[str] = (), proxies: Sequence[str] = ()
) -> None:
    """See that each can be what it is said to be; `*` can.

    Args:
        origins: of pages that may ask, such as `https://shop.example`.
        hosts: names that requests may know this machine by, such as `search.example`.
        proxies: addresses or networks whose `X-Forwarded-For` is believed.

    Raises:
        BowerbirdError: one cannot.
    """
    for origin in origins:
        usual = _USUAL_PORT.fullmatch(origin)
        if origin != "*" and (usual or not _ORIGIN.fullmatch(origin)):
            raise BowerbirdError(
                f"{origin!r} is no origin of a page, as browsers send it.",
                hint=f"Give --cors {_origin(origin)}: scheme, host in lower case, and a port if it is not the usual.",
            )
    for host in hosts:
        if host != "*" and not _HOST.fullmatch(host):
            raise BowerbirdError(
                f"{host!r} is no name of a machine.",
                hint=f"Give --allow-host {_host(host)}: the name alone, for any port.",
            )
    for proxy in proxies:
        if proxy != "*" and not _is_address(proxy):
            raise BowerbirdError(
                f"{proxy!r} is no address of a proxy.",
                hint="Give --proxy 10.0.0.7, or a network such as 10.0.0.0/8; names are not looked up.",
            )


def open_doors(
    *,
    beyond: str = "",
    keys: bool = False,
    writable: bool = False,
    origins: Sequence[str] = (),
    fetch_urls: bool = False,
    any_model: bool = False,
) -> list[str]:
    """What whoever starts a service should know of who may do what.

    Args:
        beyond: what others than this machine can reach; empty: nothing.
        keys: whether requests have to show one.
        writable: whether records can be added and removed.
        origins: of pages that may ask.
        fetch_urls: whether pictures at addresses are fetched.
        any_model: whether requests may name any model.
    """
    found = []
    if beyond and not keys:
        found.append(
            f"ANYBODY who can reach {beyond} may use this service: it listens beyond this machine and wants no key. "
            "Give --api-keys FILE, or --host 127.0.0.1."
        )
    if writable and not keys:
        found.append(
            "ANYBODY who can reach this service may change and delete its records: --writable without --api-keys."
        )
    if "*" in origins:
        found.append("Pages of ANY site may ask this service from a visitor's browser: --cors '*'.")
    if fetch_urls:
        found.append(
            "This service fetches pictures from public addresses that requests name: --fetch-urls. What it can reach "
            "and they cannot should not answer to it."
        )
    if any_model and not keys:
        found.append(
            "ANYBODY who can reach this service may have it download models: --any-model without --api-keys."
        )
    return found


def _origin(given: str) -> str:
    """What was probably meant."""
    scheme, place = _parts(given)
    scheme = scheme.lower() or "https"
    place = place.lower().removesuffix({"http": ":80", "https": ":443"}.get(scheme, "/"))
    meant = f"{scheme}://{place}"
    named = "." in place or place.startswith(("localhost", "["))
    return meant if named and _ORIGIN.fullmatch(meant) else "https://shop.example"


def _host(given: str) -> str:
    if given.count(":") > 1 and _HOST.fullmatch(f"[{given}]"):
        return f"[{given}]"
    name = re.sub(r":[0-9]*$", "", _parts(given)[1])
    return name if _HOST.fullmatch(name) else "search.example"


def _parts(given: str) -> tuple[str, str]:
    """Scheme, and host with its port, of what may be an address."""
    scheme, slashes, rest = given.strip().rpartition("://")
    return (scheme if slashes else ""), re.split("[/?#]", rest)[0].rpartition("@")[2]


def _is_address(given: str) -> bool:
    try:
        ipaddress.ip_network(given)
    except ValueError:
        return False
    return True
