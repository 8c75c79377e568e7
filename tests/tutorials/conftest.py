"""The browser of the examples' tests, as a fixture of these."""

from tests.examples.conftest import browser

__all__ = ["browser"]
