"""Where a server is found that listens on an address."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address


def url_host(host: str) -> tuple[str, bool]:
    """The host of a URL by which this machine finds a server, and whether others are as good.

    Args:
        host: a name or an address, on which the server listens.  On ``0.0.0.0`` and ``::``
            it listens on every address of the machine, and nobody can connect to these two:
            the host is then the machine's own address.
    """
    is_every = False
    with suppress(ValueError):  # a name
        address = ip_address(host)
        if address.is_unspecified:
            is_every = True
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"[{host}]" if ":" in host else host, is_every
