"""An echo service, on each framework as its own users would write it."""

from .handler import echo

__all__ = ["echo"]
