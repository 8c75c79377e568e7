"""What the runtimes share."""

from __future__ import annotations

from contextvars import ContextVar, copy_context

from unisock.runtime import adopt

variable: ContextVar[str | None] = ContextVar("variable", default="by default")
other: ContextVar[str] = ContextVar("other")


def test_what_a_handler_has_set_is_adopted_none_too() -> None:
    def caller() -> None:
        handler = copy_context()
        handler.run(variable.set, None)
        handler.run(other.set, "set")
        adopt(handler)
        assert variable.get() is None
        assert other.get() == "set"

    copy_context().run(caller)
