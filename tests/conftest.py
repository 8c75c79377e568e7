"""Of all tests: the threads of this process are measured like the rest of it."""

from __future__ import annotations

import sys
import threading

# Coverage is told to mind greenlets, and not threads (pyproject.toml says why): it
# starts none of its tracers in one.  Here, where nothing is patched, it may.  Each
# thread has a tracer of its own: one that several use at a time corrupts memory.
if sys.gettrace() is not None:
    import coverage

    _measuring = coverage.Coverage.current()
    if _measuring is not None:
        assert _measuring._collector is not None
        threading.settrace(_measuring._collector._installation_trace)
