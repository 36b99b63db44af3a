"""The directory that is served may be replaced as a whole, in each of the ways in which that is done."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serving
from permissions import serving_as_a_user
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.files import roots
from ringserve.library import RunningServer

MS_BIND = 4096
MNT_DETACH = 2


def fill(directory: Path, body: bytes) -> Path:
    directory.mkdir()
    (directory / "page").write_bytes(body)
    return directory


@pytest.fixture
def above(site: Path) -> Iterator[Path]:
    """The directory in which that of the site is, or what leads to it."""
    yield site.parent
    libc = ctypes.CDLL(None)
    while libc.umount2(os.fsencode(site), MNT_DETACH) == 0:
        pass


def removed_and_made(site: Path, body: bytes) -> None:
    shutil.rmtree(site)
    fill(site, body)


def renamed(site: Path, body: bytes) -> None:
    new = fill(site.with_name("new"), body)
    site.rename(site.with_name(f"before {body.decode()}"))
    new.rename(site)


def mounted_over(site: Path, body: bytes) -> None:
    over = fill(site.with_name(f"over {body.decode()}"), body)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(over), os.fsencode(site), None, MS_BIND, None) < 0:
        pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")


def link_switched(site: Path, body: bytes) -> None:
    release = fill(site.with_name(f"release {body.decode()}"), body)
    site.with_name("next").symlink_to(release.name)
    if site.is_dir() and not site.is_symlink():
        shutil.rmtree(site)
    os.replace(site.with_name("next"), site)


def link_above_switched(site: Path, body: bytes) -> None:
    """As Kubernetes does it: `site` leads through `..data`, which is switched."""
    above = site.parent
    (above / f"..{body.decode()}").mkdir()
    fill(above / f"..{body.decode()}" / "site", body)
    (above / "next").symlink_to(f"..{body.decode()}")
    os.replace(above / "next", above / "..data")
    if not site.is_symlink():
        shutil.rmtree(site)
        site.symlink_to("..data/site")


@pytest.mark.usefixtures("above")
@pytest.mark.parametrize("replace", [removed_and_made, renamed, mounted_over, link_switched, link_above_switched])
def test_a_directory_that_is_replaced_is_served_on_within_a_second(
    serving: Serving, site: Path, replace: Callable[[Path, bytes], None]
) -> None:
    (site / "page").write_bytes(b"zero")
    running = serving()
    table = running.server.shared.files
    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).body == b"zero"
        for body in (b"one", b"two", b"three"):
            replace(site, body)
            replaced_at = time.monotonic()
            eventually("the new one is served", lambda body=body: wire.ask(get("/page")).body == body)
            assert roots.LOOK_EVERY_S + 0.1 < 1.0
            assert time.monotonic() - replaced_at < 5.0, "on a busy machine"
            assert wire.ask(get("/missing")).status == 404
            (site / "page").write_bytes(body * 2)
            assert wire.ask(get("/page")).body == body * 2, "and it is watched"
            (site / "page").write_bytes(body)
        eventually("the old ones are closed", lambda: len(opened_below(site.parent)) == 1)
        assert len(table._trees) == 1


def opened_below(directory: Path) -> list[str]:
    """What this process has open, by name."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in names if name.startswith(f"{directory}/")]


def test_a_directory_that_is_gone_for_a_while_is_404_and_found_again(serving: Serving, site: Path) -> None:
    (site / "page").write_bytes(b"page")
    running = serving()
    away = site.with_name("away")
    with Wire(running.url) as wire:
        for _round in range(2):
            assert wire.ask(get("/page")).body == b"page"
            site.rename(away)
            eventually("it is gone", lambda: wire.ask(get("/page")).status == 404)
            for path in ("/page", "/", "/other/"):
                assert wire.ask(get(path)).status == 404
            away.rename(site)
            eventually("it is back", lambda: wire.ask(get("/page")).status == 200)


def test_a_download_from_a_directory_that_was_replaced_goes_on(serving: Serving, site: Path) -> None:
    body = os.urandom(16 * 1024 * 1024)
    (site / "large").write_bytes(body)
    running = serving()
    with Wire(running.url, receive_bytes=65536) as slow, Wire(running.url) as wire:
        slow.send(get("/large"))
        assert slow.socket.recv(1) == b"H"
        renamed(site, b"new")
        eventually("the new one is served", lambda: wire.ask(get("/page")).body == b"new")
        slow.put_back(b"H")
        assert slow.answer().body == body


def test_a_directory_that_may_not_be_opened_anew_is_said_once_and_the_old_one_is_served(
    serving: Serving, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "page").write_bytes(b"old")
    running = serving_as_a_user(serving)
    tree = running.server.shared.files._trees[0]
    with Wire(running.url) as wire:
        assert wire.ask(get("/page")).body == b"old"
        new = fill(site.with_name("new"), b"new")
        new.chmod(0)
        site.rename(site.with_name("before"))
        new.rename(site)
        looked_at_least(running, 3)
        assert wire.ask(get("/page")).body == b"old"
        assert running.server.shared.files._trees[0] is tree
        site.chmod(0o755)
        eventually("the new one is served", lambda: wire.ask(get("/page")).body == b"new")
    running.stop()
    said = [line for line in capfd.readouterr().err.splitlines() if "anew" in line]
    assert said == [
        f"ringserve: cannot open {site} anew: EACCES (Permission denied); what was opened at the start is served"
    ]


def looked_at_least(running: RunningServer, times: int) -> None:
    """Wait until the roots were looked at so often."""
    keeper = running.server._root_keepers
    seen = 0
    look = keeper.look

    def counted() -> None:
        nonlocal seen
        seen += 1
        look()

    keeper.look = counted  # type: ignore[method-assign]
    eventually("it was looked", lambda: seen > times)


def test_a_worker_that_starts_when_the_working_directory_was_replaced_serves_the_new_one(tmp_path: Path) -> None:
    # As a build does it that clears the directory in which `ringserve` was started.
    site = fill(tmp_path / "dist", b"old")
    process = subprocess.Popen(
        [sys.executable, "-m", "ringserve", "--unix", str(tmp_path / "socket")], cwd=site,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def served() -> bytes:
        assert process.poll() is None
        try:
            with Wire(f"unix:{tmp_path / 'socket'}") as wire:
                return wire.ask(get("/page")).body
        except (ConnectionError, FileNotFoundError):
            return b""

    try:
        eventually("it serves", lambda: served() == b"old")
        shutil.rmtree(site)
        fill(site, b"new")
        eventually("it serves what is there", lambda: served() == b"new")
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        eventually("another worker serves it too", lambda: served() == b"new")
        process.send_signal(signal.SIGHUP)
        eventually("and so does one after a reload", lambda: served() == b"new")
    finally:
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
