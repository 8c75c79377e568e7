"""Fail if a framework or a server can be imported in this environment."""

import importlib.util
import sys

from unisock.frameworks import find, names

RECORDS = [find(name) for name in names()]
NAMES = {
    *(module for each in RECORDS for module in each.packages.values()),
    *(server.partition(",")[0] for each in RECORDS for server in each.capabilities),
}

if not NAMES:
    sys.exit("unisock has no records of frameworks here")
if found := [name for name in sorted(NAMES) if importlib.util.find_spec(name)]:
    sys.exit(f"installed, and should not be: {', '.join(found)}")
print(f"not installed: {', '.join(sorted(NAMES))}")
