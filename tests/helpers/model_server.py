"""`transformers serve` with the packaged model, for tests that want a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from transformers.utils.import_utils import is_serve_available

from gazal.common.paths import EMBEDDED

needs_serve = pytest.mark.skipif(
    not is_serve_available(), reason="transformers serve needs fastapi and uvicorn (pip install transformers[serving])"
)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Address of a server that holds the packaged model, which it knows by its path; its log and cache lie in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        EMBEDDED,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        *options,
    ]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"}:
                    break
            except httpx.TransportError:
                time.sleep(0.25)
        else:
            pytest.fail("transformers serve did not come up within a minute")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
