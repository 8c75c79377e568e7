"""`Row`: one server of the matrix that the suite runs on, and what it cannot do.

A lack is declared here with its reason and the server's version; the tests
assert the fallback, and the table at the end of the run shows it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from unisock import Capabilities

noted: set[str] = set()
"""The lacks that the running test has met, for the table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One framework on one server.

    Attributes:
        name: as ``"falcon on uvicorn websockets"``.
        framework: the framework's name.
        server: the server's name.
        command: the arguments that start it on a port of 127.0.0.1.
        env: environment variables beside those of the test run.
        capabilities: what `WebSocket.capabilities` must say.
        lacks: what this row cannot do, with the reason; each capability that
            is false is among them.
        no_route_status: the status of a handshake that no route matches.
        routers: paths of `tell_room` on the framework's routers, by router, as
            ``"/routed/{}"``.
        by_hand: its paths in the framework's own forms, by form.
        request_type: the type of `WebSocket.request`, or a base of it.
        prefix: what stands before the path of an application that is mounted
            below another one.
        on_lowest: whether it runs on the lowest versions that are admitted.
    """

    name: str
    framework: str
    server: str
    command: Callable[[int], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
    lacks: Mapping[str, str] = field(default_factory=dict)
    no_route_status: int = 404
    routers: Mapping[str, str] = field(default_factory=dict)
    by_hand: Mapping[str, str] = field(default_factory=dict)
    request_type: str = "builtins.object"
    prefix: str = "/prefix"
    on_lowest: bool = False

    def __post_init__(self) -> None:
        for capability in fields(self.capabilities):
            has = getattr(self.capabilities, capability.name)
            if has is (capability.name in self.lacks):
                raise ValueError(f"{self.name}: {capability.name} is {has}: see `lacks`")

    def without(self, key: str) -> bool:
        """Whether `key` is declared as a lack; if so the table shows it.

        For tests, that then assert the fallback.
        """
        if key not in self.lacks:
            return False
        noted.add(key)
        return True

    def sees(self, code: int, reason: str = "") -> tuple[int, str]:
        """What a handler learns of the peer's close with `code` and `reason`."""
        if self.without("close_code") or (code == 1005 and self.without("no_code")):
            code = 1006
        if reason and self.without("close_reason"):
            reason = ""
        return code, reason

    def sends(self, code: int, reason: str = "") -> tuple[int, str]:
        """What the peer gets of the own close with `code` and `reason`."""
        if 1000 < code < 3000 and code not in (1005, 1006) and self.without("own_close_code"):
            code += 3000
        if reason and self.without("own_close_reason"):
            reason = ""
        return code, reason


# The project's own rows

FLASKS_OWN = "the clause is of Flask alone; elsewhere nothing imports it"


def rows_of(
    framework: str,
    servers: Mapping[str, Mapping[str, str]],
    *,
    lacks: Mapping[str, str] = MappingProxyType({}),
    run_by: Mapping[str, Sequence[str]] = MappingProxyType({}),
    on_lowest: Collection[str],
    **attributes: Any,
) -> tuple[Row, ...]:
    """The rows of a framework of this project's, one for each of its servers.

    Args:
        framework: its name, and that of its module in `unisock.conformance.frameworks`.
        servers: what each server lacks, by its name.
        lacks: what the framework lacks on all of them.
        run_by: for a server whose process another module starts: that and its arguments.
        on_lowest: the servers that run on the lowest versions that are admitted.
        **attributes: those of `Row`.
    """
    return tuple(
        _row(
            framework,
            server,
            {**of_server, **lacks},
            run_by.get(server, ()),
            {**attributes, "on_lowest": server in on_lowest},
        )
        for server, of_server in servers.items()
    )


def _row(
    framework: str,
    server: str,
    lacks: Mapping[str, str],
    run_by: Sequence[str],
    attributes: Mapping[str, Any],
) -> Row:
    def command(port: int) -> Sequence[str]:
        python = os.environ.get("UNISOCK_SERVER_PYTHON", sys.executable)
        module = [*run_by, "unisock.conformance.serve"]
        return [python, "-m", *module, framework, server, str(port)]

    return Row(
        name=f"{framework} on {server}",
        framework=framework,
        server=server,
        command=command,
        capabilities=Capabilities(**{f.name: f.name not in lacks for f in fields(Capabilities)}),
        lacks=lacks,
        **attributes,
    )
