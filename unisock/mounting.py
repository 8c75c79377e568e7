"""`mount`: put a handler on an application, whatever its framework.

The adapter is found by the application's type, through the entry points of
the group ``unisock.adapters``: the name of each is a framework's top-level
package, its value a module with ``mount(app, template, handler, **options)`` and the
types of ``app`` in ``APPLICATIONS``.
unisock's own adapters are found in the same way as a third party's.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .handlers import Handler, check_handler, plan_of
from .paths import PathTemplate

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "unisock.adapters"


def mount(app: Any, path: str, handler: Handler, **options: Any) -> None:
    """Mount one handler; see `unisock.mount`."""
    entry = adapter_of(app)
    if entry is None:
        raise TypeError(_unknown(app))
    adapter = _load(entry)
    template = _template_of(app, path)
    injects = getattr(adapter, "injects", None)
    check_handler(handler, injects)
    if (plan := plan_of(handler, injects=injects)) is not None:
        plan.check_path(template)
    adapter.mount(app, template, handler, **options)


def _template_of(app: Any, path: str) -> PathTemplate:
    if path == "":
        # `APIRouter` and `Blueprint` call it so.
        if getattr(app, "prefix", None) or getattr(app, "url_prefix", None):
            return PathTemplate(())
        raise ValueError("an empty path is for a router with a prefix: write '/'")
    return PathTemplate.parse(path)


def adapter_of(app: object) -> EntryPoint | None:
    """The adapter for an application: that of the nearest class which one knows.

    A class of another framework may be derived from what a known one has inside
    (Quart's application from Flask's `flask.sansio`): it is no application of that.
    """
    known = adapters()
    for package in packages_of(type(app)):
        if package in known and _takes(known[package], app):
            return known[package]
    return None


def _takes(entry: EntryPoint, app: object) -> bool:
    try:
        types = _applications(entry)
    except ImportError:
        return True  # `mount` tells what is missing
    return types is None or isinstance(app, types)


def _applications(entry: EntryPoint) -> tuple[type, ...] | None:
    types: tuple[type, ...] | None = getattr(entry.load(), "APPLICATIONS", None)
    return types


def _unknown(app: object) -> str:
    known = adapters()
    taken = [
        f"{package}.{each.__name__}"
        for package in dict.fromkeys(packages_of(type(app)))
        if package in known
        for each in _applications(known[package]) or ()
    ]
    hint = f"mount on one of {', '.join(taken)}; " if taken else ""
    return (
        f"cannot mount on {type(app).__module__}.{type(app).__qualname__}; {hint}frameworks known: "
        f"{', '.join(sorted(known))}; install one with: pip install 'unisock[NAME]', or the "
        "distribution that has its adapter; on another ASGI framework route to "
        "unisock.adapters.asgi.ASGIApp(handler)"
    )


def adapters() -> dict[str, EntryPoint]:
    """The adapters that are installed, by the package of their framework."""
    # Here, for it takes a third of the import of unisock, zip and mail included.
    from importlib.metadata import entry_points  # noqa: PLC0415  # see above

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def packages_of(cls: type) -> Iterator[str]:
    """The top-level packages that `cls` and its bases come from, nearest first."""
    for base in cls.__mro__:
        yield base.__module__.partition(".")[0]


def _load(entry: EntryPoint) -> ModuleType:
    try:
        module = entry.load()
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"mounting on {entry.name} needs the package {exc.name}: "
            f"pip install 'unisock[{entry.name}]'",
            name=exc.name,
        ) from exc
    assert isinstance(module, ModuleType)
    return module
