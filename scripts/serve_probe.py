"""Whether an installed ringserve serves: `python serve_probe.py RINGSERVE`, by the Python that it is installed for.

It needs nothing but the standard library, and runs where nothing else is: see wheel_test.py. Exit status 0 if
`ringserve doctor` finds all that is needed, and a server on a port of its own on loopback answers, and ends by SIGTERM
with status 0.
"""

from __future__ import annotations

import http.client
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

WAIT_S = 30
PAGE = b"<!doctype html><title>Hello</title>\n"
LARGE = bytes(range(256)) * 8192
"""2 MiB: it goes through a pipe, and not through memory."""


def serve(ringserve: str, site: Path) -> None:
    """Start a server of the site, ask it, and end it."""
    process = subprocess.Popen(
        [ringserve, str(site), "--port", "0", "--host", "127.0.0.1", "--listing", "--workers", "2"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=site,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:  # it ends, if the process does
            said.append(line)
            if line.startswith("Stop it"):
                break
        urls = [line.strip() for line in said if line.startswith("  http://")]
        assert urls, f"ringserve did not start: {''.join(said)}"
        ask(urls[0])
        process.send_signal(signal.SIGTERM)
        log, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, f"ringserve ended with status {process.returncode}: {errors}"
        assert errors == "", errors
        assert log.count('"GET ') == 4, log
    finally:
        process.kill()
        process.communicate()


def ask(url: str) -> None:
    """A page, a large file, a listing (whose template has to be there), and what there is not."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT_S)

    def get(target: str) -> tuple[int, bytes]:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()

    try:
        assert get("/page.html") == (200, PAGE)
        assert get("/large.bin") == (200, LARGE)
        status, listing = get("/")
        assert status == 200
        assert b"large.bin" in listing, listing
        assert get("/nothing")[0] == 404
    finally:
        connection.close()


def main() -> None:
    """See the module."""
    ringserve = sys.argv[1]
    # A warning of ours, or of what we use, about this very Python.
    os.environ["PYTHONWARNINGS"] = "error"
    version = subprocess.run([ringserve, "--version"], capture_output=True, text=True, check=True, timeout=WAIT_S)
    doctor = subprocess.run([ringserve, "doctor"], capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert doctor.stdout.endswith("ringserve works here.\n"), doctor.stdout
    # Installed without its extras, it says what is missing for a password.
    password = subprocess.run([ringserve, "password"], input="secret\n", capture_output=True, text=True, check=False)
    assert password.returncode == 2, password
    assert password.stderr.count("\n") == 1, password.stderr
    assert "ringserve[auth]" in password.stderr, password.stderr
    with tempfile.TemporaryDirectory() as directory:
        site = Path(directory)
        (site / "page.html").write_bytes(PAGE)
        (site / "large.bin").write_bytes(LARGE)
        serve(ringserve, site)
    print(f"{version.stdout.strip()} serves on Python {platform.python_version()}")


if __name__ == "__main__":
    main()
