"""`mount`: put a handler on an application, whatever its framework.

The adapter is found by the application's type, through the entry points of
the group ``unisock.adapters``.  The name of each is a framework's top-level
package.  Its value is a module with ``mount(app, template, handler, **options)``
and the types of ``app`` in ``APPLICATIONS``, or a module whose ``FRAMEWORK`` names
the module that has them.  `unisock.frameworks` says what ``FRAMEWORK`` is.
unisock's own adapters are found in the same way as a third party's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .handlers import Handler, check_form, plan_of
from .markers import Depends
from .paths import PathTemplate

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "unisock.adapters"
_OWN = "unisock"


def mount(app: Any, path: str, handler: Handler, **options: Any) -> None:
    """Mount one handler; see `unisock.mount`."""
    entry = adapter_of(app)
    if entry is None:
        raise TypeError(_unknown(app))
    adapter = _load(entry)
    template = _template_of(app, path)
    injects = getattr(adapter, "injects", None)
    check_form(handler)
    given = options.get("dependencies") or ()
    # Those of the framework are its own affair; what is no list, `Options` tells.
    own = [d for d in given if isinstance(d, Depends)] if isinstance(given, Sequence) else ()
    if (plan := plan_of(handler, own, injects=injects)) is not None:
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

    Raises:
        RuntimeError: two distributions have an adapter for its framework.
    """
    known = adapters()
    for package in packages_of(type(app)):
        if package in known:
            entry = only(known[package])
            if _takes(entry, app):
                return entry
    return None


def _takes(entry: EntryPoint, app: object) -> bool:
    try:
        module = _adapter(entry)
    except ImportError:
        return True  # `mount` tells what is missing
    types = getattr(module, "APPLICATIONS", None)
    return module is not None and (types is None or isinstance(app, types))


def _adapter(entry: EntryPoint) -> ModuleType | None:
    """The module that has `mount`; `None` where a framework has no applications of its own."""
    name = _adapter_name(entry)
    return importlib.import_module(name) if name is not None else None


def _adapter_name(entry: EntryPoint) -> str | None:
    module = entry.load()
    elsewhere: str | None = getattr(getattr(module, "FRAMEWORK", None), "adapter", None)
    return elsewhere or (entry.module if hasattr(module, "mount") else None)


def _is_mountable(entry: EntryPoint) -> bool:
    try:
        return _adapter_name(entry) is not None
    except ImportError:
        return True  # `mount` tells what is missing


def _unknown(app: object) -> str:
    known = adapters()
    taken = [
        f"{package}.{each.__name__}"
        for package in dict.fromkeys(packages_of(type(app)))
        if package in known
        for each in getattr(_adapter(only(known[package])), "APPLICATIONS", ())
    ]
    mountable = [name for name, entries in known.items() if _is_mountable(entries[0])]
    hint = f"mount on one of {', '.join(taken)}; " if taken else ""
    return (
        f"cannot mount on {type(app).__module__}.{type(app).__qualname__}; {hint}frameworks known: "
        f"{', '.join(mountable)}; install one with: pip install 'unisock[NAME]', or the "
        "distribution that has its adapter; on another ASGI framework route to "
        "unisock.adapters.asgi.ASGIApp(handler)"
    )


def adapters() -> dict[str, list[EntryPoint]]:
    """The adapters that are installed, by the package of their framework, in its order.

    More than one for a name is a mistake, which `only` tells where the name is used.
    """
    # Here, for it takes a third of the import of unisock, zip and mail included.
    from importlib.metadata import entry_points  # noqa: PLC0415  # see above

    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        found.setdefault(entry.name, []).append(entry)
    return found


def only(entries: Sequence[EntryPoint]) -> EntryPoint:
    """The one adapter of a framework.

    Raises:
        RuntimeError: two distributions have one; the message names them.
    """
    if len(entries) > 1:
        names = " and ".join(sorted(_distribution(entry) for entry in entries))
        raise RuntimeError(
            f"{names} both have an adapter for {entries[0].name}: uninstall all but one of them"
        )
    return entries[0]


def install_command(entries: Iterable[EntryPoint]) -> str:
    """The command that installs what some adapters need."""
    extras: list[str] = []
    others: list[str] = []
    for entry in entries:
        name = _distribution(entry)
        if name == _OWN:
            extras.append(entry.name)
        else:
            others.append(name)
    own = [f"'{_OWN}[{','.join(extras)}]'"] if extras else []
    return f"pip install {' '.join([*own, *others])}"


def missing_package(exc: ModuleNotFoundError, entries: Iterable[EntryPoint]) -> str:
    """What is missing, with the command that installs it."""
    package = str(exc.name).partition(".")[0]
    return f"needs the package {package}: {install_command(entries)}"


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else _OWN


def packages_of(cls: type) -> Iterator[str]:
    """The top-level packages that `cls` and its bases come from, nearest first."""
    for base in cls.__mro__:
        yield base.__module__.partition(".")[0]


def _load(entry: EntryPoint) -> ModuleType:
    try:
        module = _adapter(entry)
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"mounting on {entry.name} {missing_package(exc, [entry])}", name=exc.name
        ) from exc
    assert module is not None  # `adapter_of` has seen it
    return module
