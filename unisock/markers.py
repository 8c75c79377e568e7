"""What the annotation of a handler's parameter says: where its value comes from.

::

    async def room(
        ws: WebSocket,
        room: str,
        since: int = 0,
        user_agent: Annotated[str, Header()] = "",
        db: Annotated[Database, Depends(get_database)],
    ) -> None: ...

See `unisock.parameters` for what each stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _From:
    """A marker of a value that a client sends."""

    alias: str | None = None

    def __post_init__(self) -> None:
        if self.alias is not None and (not isinstance(self.alias, str) or not self.alias):
            raise TypeError(f"alias= is a name, not {self.alias!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(_From):
    """``Annotated[…, Query()]``: a value of the query.

    Attributes:
        alias: the name in the query, if it is not the parameter's.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(_From):
    """``Annotated[…, Header()]``: a header of the request.

    Attributes:
        alias: the header's name; without it the parameter's name with hyphens:
            ``user_agent`` is ``user-agent``.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie(_From):
    """``Annotated[…, Cookie()]``: a cookie.

    Attributes:
        alias: the cookie's name, if it is not the parameter's.
    """


@dataclass(frozen=True, slots=True)
class Depends:
    """``Annotated[…, Depends(function)]``: what a function returns or yields.

    Attributes:
        dependency: an ``async def`` or a plain function, a generator of either kind that
            yields once, or a class.  It may have parameters as a handler has.
        use_cache: whether all who ask for it on one connection get the same value.
            If it is false, each of them has it called again.

    Raises:
        TypeError: `dependency` cannot be called.
    """

    dependency: Callable[..., Any]
    use_cache: bool = True

    def __post_init__(self) -> None:
        if not callable(self.dependency):
            raise TypeError(f"Depends() takes a function or a class, not {self.dependency!r}")
