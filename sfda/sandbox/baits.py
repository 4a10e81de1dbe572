"""What the parent lays out for a restricted process to try to reach."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sfda.sandbox.privileges import SHARED_MEMORY

TEXT = "no process of an adaptation may read this"


@contextmanager
def baits() -> Iterator[dict[str, Any]]:
    """Addresses, by name, of things that this process holds open; none is there afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sfda.")))
        (folder / "outside").write_text(TEXT)
        tcp = _listener(stack, socket.AF_INET, ("127.0.0.1", 0))
        names = {"path": str(folder / "socket"), "abstract": f"\0sfda.{secrets.token_hex(8)}"}
        for name in names.values():
            _listener(stack, socket.AF_UNIX, name)
        memory = None
        with suppress(OSError):
            memory = stack.enter_context(
                tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, prefix="sfda.")
            ).name
        yield {
            "file": str(folder / "outside"),
            "port": tcp.getsockname()[1] if tcp else 9,
            "memory": memory,
            "process": os.getpid(),
            **names,
        }


def _listener(
    stack: ExitStack, family: int, address: str | tuple[str, int]
) -> socket.socket | None:
    """A socket that can be connected to; None where the machine has none of the family."""
    with suppress(OSError):
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind(address)
        listener.listen(1)
        return listener
    return None
