"""Run the README's serve command: every URL that it prints echoes, Ctrl-C ends it.

serve_readme.py FOLDER COMMAND
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys

import websockets

from unisock.frameworks import names

FRAMEWORKS = set(names())


async def main(folder: str, command: str) -> None:
    """Start, connect, stop."""
    # Handled here, so default there, even if this process was started without.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        executable="/bin/bash",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(600):  # it installs first
            urls = await read_urls(process)
        for name, url in urls.items():
            async with asyncio.timeout(10), websockets.connect(url) as client:
                await client.send(f"hello {name}")
                assert await client.recv() == f"hello {name}"
            print(f"{name} echoes at {url}")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        async with asyncio.timeout(20):
            status = await process.wait()
        assert status == 0, f"exit status {status} after Ctrl-C"
        print("stopped by Ctrl-C with exit status 0")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def read_urls(process: asyncio.subprocess.Process) -> dict[str, str]:
    """What the command prints, until there is one URL for each framework."""
    urls: dict[str, str] = {}
    assert process.stdout is not None
    while urls.keys() != FRAMEWORKS:
        line = (await process.stdout.readline()).decode()
        if not line:
            sys.exit(f"the command ended with status {await process.wait()}")
        print(line, end="")
        if found := re.match(r"(\w+)\s+(ws://\S+)(?:  \(.*\))?$", line):
            urls[found[1]] = found[2]
    return urls


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
