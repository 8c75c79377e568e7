"""Finding a framework's record."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from unisock.frameworks import Framework, NotInstalled, ServeError, find, names, why_not
from unisock.mounting import GROUP


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that an entry point leads to, beside one that is missing."""
    module = types.ModuleType("third_party_record")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    points = [
        EntryPoint("thirdparty", module.__name__, GROUP),
        EntryPoint("absent", "no_such_package.record", GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    return module


def framework(**packages: str) -> Framework:
    return Framework(application=lambda _: None, server=lambda *_: None, packages=packages)  # type: ignore[arg-type]  # it is not served


def test_names_are_in_alphabetical_order(record: types.ModuleType) -> None:
    assert names() == ["absent", "thirdparty"]


def test_the_record_is_found_and_says_what_is_missing(record: types.ModuleType) -> None:
    record.FRAMEWORK = framework(pytest="pytest")  # type: ignore[attr-defined]  # made by hand
    assert find("thirdparty") is record.FRAMEWORK
    assert why_not("thirdparty") == ""
    record.FRAMEWORK = framework(pytest="pytest", absent="no_such_package")  # type: ignore[attr-defined]  # made by hand
    assert why_not("thirdparty").startswith("thirdparty is not installed: pip install ")


def test_a_module_without_a_record(record: types.ModuleType) -> None:
    with pytest.raises(ServeError, match="third_party_record has no FRAMEWORK"):
        find("thirdparty")
    assert "third_party_record has no FRAMEWORK" in why_not("thirdparty")


def test_a_module_that_is_missing(record: types.ModuleType) -> None:
    with pytest.raises(NotInstalled, match="serving on absent needs the package no_such_package: "):
        find("absent")


def test_a_name_that_is_unknown(record: types.ModuleType) -> None:
    with pytest.raises(ServeError, match="nothing has no adapter: one of absent, thirdparty has"):
        find("nothing")
