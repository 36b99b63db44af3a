"""A real browser for tests: headless Chromium, driven through the DevTools protocol over a pair of pipes.

The protocol over pipes is JSON with a NUL after each message, on the browser's descriptors 3 and 4; it needs no
WebSocket, no port, and no package. Everything runs on the test's own thread: what the browser reports is read while an
answer or an event is waited for. Each wait ends with that event, or with an error after WAIT_S.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

WAIT_S = 30.0
"""How long one wait may take. Nothing here takes a second; a loaded machine that starts Chromium may take several."""
CHROMIUM_READS = 3
CHROMIUM_WRITES = 4
FIRST_FREE = 10
"""Descriptors of ours are moved up to here, out of the way of the two that Chromium expects."""
READ_BYTES = 1 << 20
PHONE_WIDTH_MAX = 600
"""Up to this width a viewport is a phone's: scroll bars take no room, and the meta element has a say."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it cannot start as root nor in most containers; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    # Going back shall load a page, which can be waited for, and not wake one up.
    "--disable-features=BackForwardCache,Translate,MediaRouter,OptimizationHints",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)

PLACE_OF = """selector => {
    const element = document.querySelector(selector);
    if (!element) return null;
    element.scrollIntoView({block: "center", behavior: "instant"});
    const box = element.getClientRects()[0];
    return box && {x: box.x + box.width / 2, y: box.y + box.height / 2};
}"""

Event = dict[str, Any]


class BrowserError(Exception):
    """The browser did not do what a test asked for."""


class Browser:
    """A Chromium process with one page. `fresh` gives a new page that shares no cache, cookie or record with the last.

    console: what the page said there, errors and uncaught exceptions among it, as `level: text`.
    statuses: of the responses, by URL; of a URL that was asked for more than once, the last.
    failures: requests that got no response, as `URL: reason`.
    """

    def __init__(self) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            raise BrowserError("there is no Chromium on this machine; to install it: apt-get install chromium")
        self.console: list[str] = []
        self.statuses: dict[str, int] = {}
        self.failures: list[str] = []
        self._urls: dict[str, str] = {}
        self._last_id = 0
        self._buffer = b""
        self._events: list[Event] = []
        self._session: str | None = None
        self._context: str | None = None
        self._frame = ""
        self._directory = tempfile.mkdtemp(prefix="chromium-")
        self._pid = self._start(found)
        try:
            self.fresh()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- what tests use -----------------------------------------------------------------------------------------

    def fresh(self) -> None:
        """A new page in a new profile; the old one is gone, and what was recorded of it forgotten."""
        session, self._session = self._session, None
        if self._context is not None:
            self.command("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        assert self._session != session, "each page has a session of its own"
        self.console.clear()
        self.statuses.clear()
        self.failures.clear()
        self._urls.clear()
        self._events.clear()
        self._frame = self.command("Page.getFrameTree")["frameTree"]["frame"]["id"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")
        self.command("Page.setLifecycleEventsEnabled", enabled=True)
        self.set_viewport(1200, 800)
        self.dark(False)

    def open(self, url: str) -> int:
        """Load a page with everything that it refers to; returns its status."""

        def navigate() -> None:
            error = self.command("Page.navigate", url=url).get("errorText")
            if error:
                raise BrowserError(f"{url} cannot be opened: {error}")

        self._load(navigate)
        return self.statuses.get(self.url, 0)

    def follow(self, selector: str) -> None:
        """Click what leads to another page, and wait until that is loaded."""
        self._load(lambda: self.click(selector))

    def back(self) -> None:
        """As the browser's button does."""
        history = self.command("Page.getNavigationHistory")
        earlier = history["entries"][history["currentIndex"] - 1]["id"]
        self._load(lambda: self.command("Page.navigateToHistoryEntry", entryId=earlier))

    def click(self, selector: str) -> None:
        """Press and release the mouse button in the middle of the first element that matches, as a visitor would:
        what lies on top of it gets the click.
        """
        place = self.evaluate(f"({PLACE_OF})({json.dumps(selector)})")
        if place is None:
            raise BrowserError(f"nothing that can be clicked matches {selector}")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, code: int) -> None:
        """Press and release a key; code: its Windows virtual-key code, which is what decides (Tab: 9, Enter: 13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    @property
    def url(self) -> str:
        """Where the page is, without a fragment."""
        url: str = self.evaluate("location.href")
        return url.partition("#")[0]

    def set_viewport(self, width: int, height: int) -> None:
        """In CSS pixels; a narrow one is a phone's."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width <= PHONE_WIDTH_MAX,
        )

    def dark(self, is_dark: bool) -> None:
        """Which colour scheme the visitor prefers."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """What the viewport shows, as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Any command of the protocol; its result."""
        self._last_id += 1
        number = self._last_id
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None and not method.startswith("Target."):
            message["sessionId"] = self._session
        self._write(json.dumps(message).encode() + b"\0")
        answer = self._read_until(lambda event: event.get("id") == number, method)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End Chromium, and what it left behind."""
        self._session = None
        with contextlib.suppress(BrowserError, OSError):
            self.command("Browser.close")
        os.close(self._to)
        os.close(self._from)
        if not self._has_ended_by_itself():
            os.killpg(self._pid, signal.SIGKILL)  # it leads a group of its own, and nobody has waited for it
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._directory, ignore_errors=True)  # its helpers may still be writing there

    # -- the process and its pipes ------------------------------------------------------------------------------

    def _start(self, program: str) -> int:
        directory = self._directory
        its_end_to_read, self._to = map(_move_up, os.pipe())
        self._from, its_end_to_write = map(_move_up, os.pipe())
        os.set_blocking(self._from, False)
        log = _move_up(os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            return os.posix_spawn(
                program,
                [program, *FLAGS, f"--user-data-dir={directory}/profile", "about:blank"],
                {**os.environ, "HOME": directory, "XDG_CONFIG_HOME": directory, "XDG_CACHE_HOME": directory},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, its_end_to_read, CHROMIUM_READS),
                    (os.POSIX_SPAWN_DUP2, its_end_to_write, CHROMIUM_WRITES),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setpgroup=0,
            )
        finally:
            for fd in (its_end_to_read, its_end_to_write, log):
                os.close(fd)

    def _has_ended_by_itself(self) -> bool:
        descriptor = os.pidfd_open(self._pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(WAIT_S * 1000))
        finally:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except BrokenPipeError as error:
            raise BrowserError(self._obituary()) from error

    def _read_until(self, wanted: Callable[[Event], bool], what: str) -> Event:
        """Take in messages up to the wanted one, and record what else they tell."""
        deadline = time.monotonic() + WAIT_S
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        while True:
            message, end, rest = self._buffer.partition(b"\0")
            if end:
                self._buffer = rest
                event: Event = json.loads(message)
                self._record(event)
                if wanted(event):
                    return event
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise BrowserError(f"waited {WAIT_S:.0f} s in vain for {what}")
            data = os.read(self._from, READ_BYTES)
            if not data:
                raise BrowserError(self._obituary())
            self._buffer += data

    def _obituary(self) -> str:
        log = Path(self._directory, "log").read_text(errors="replace")
        return f"Chromium has ended; its last words: {log[-2000:]}"

    # -- events -------------------------------------------------------------------------------------------------

    def _load(self, begin: Callable[[], object]) -> None:
        """Do what leads to another document, and wait until that has fired its load event."""
        self._events.clear()
        before = self._loader_id()
        begin()

        def is_loaded(event: Event) -> bool:
            parameters = event.get("params", {})
            return (
                event.get("method") == "Page.lifecycleEvent"
                and parameters["name"] == "load"
                and parameters["frameId"] == self._frame
                and parameters["loaderId"] != before
            )

        if not any(map(is_loaded, self._events)):
            self._read_until(is_loaded, "a page to load")

    def _loader_id(self) -> str:
        loader: str = self.command("Page.getFrameTree")["frameTree"]["frame"]["loaderId"]
        return loader

    def _record(self, event: Event) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method is None or event.get("sessionId") != self._session:
            return
        self._events.append(event)
        if method == "Runtime.consoleAPICalled":
            words = [str(word.get("value", word.get("description", ""))) for word in parameters["args"]]
            self.console.append(f"{parameters['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Log.entryAdded":
            self.console.append(f"{parameters['entry']['level']}: {parameters['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self._urls[parameters["requestId"]] = parameters["request"]["url"]
            redirect = parameters.get("redirectResponse")
            if redirect:
                self.statuses[redirect["url"]] = redirect["status"]
        elif method == "Network.responseReceived":
            self.statuses[parameters["response"]["url"]] = parameters["response"]["status"]
        elif method == "Network.loadingFailed":
            self.failures.append(f"{self._urls.get(parameters['requestId'], '?')}: {parameters['errorText']}")


def _move_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    os.close(fd)
    return moved
