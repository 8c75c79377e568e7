"""Of all tests: the threads of this process are measured like the rest of it."""

from __future__ import annotations

import sys
import threading

# Coverage is told to mind greenlets, and not threads (pyproject.toml says why): it
# starts none of its tracers in one.  The one of this thread will do, as it keeps
# what it notes by greenlet, and each thread has a greenlet of its own.
_tracer = sys.gettrace()
if _tracer is not None:
    threading.settrace(_tracer)
