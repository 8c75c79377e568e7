"""The page that each application serves."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "page.html"
