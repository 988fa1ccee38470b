"""A real browser for tests: Chromium without a window, spoken to by its DevTools protocol."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
MISSING = "no chromium on the path (Debian: apt-get install chromium)"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=IsolateSandboxedIframes",  # a frame's scripts in the page's own process
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, " ": 32}


class Browser:
    """A running browser with an empty profile; use it as a context manager."""

    def __enter__(self) -> Self:
        self._profile = tempfile.mkdtemp(prefix="browser-")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr
        address = next(
            found[1]
            for line in self._process.stderr
            if (found := re.search(r"DevTools listening on (ws://\S+)", line))
        )
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0
        self.events: list[dict] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)
        assert self._process.stderr
        self._process.stderr.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **given: Any) -> dict:
        """Send a command and return its result; events meanwhile are kept in `events`."""
        self._number += 1
        sent = {"id": self._number, "method": method, "params": given}
        self._socket.send(json.dumps(sent | ({"sessionId": session} if session else {})))
        while True:
            got = json.loads(self._socket.recv())
            if got.get("id") == self._number:
                assert "error" not in got, f"{method}: {got['error']}"
                return got["result"]
            if "method" in got:
                self.events.append(got)

    def page(self, *, width: int = 1100, height: int = 900, dark: bool = False) -> "Page":
        """Open a new empty page of a size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        return page


class Page:
    """A page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self._context: dict[str, int] = {}

    def call(self, method: str, **given: Any) -> dict:
        """Send a command to this page."""
        return self.browser.call(method, self.session, **given)

    def open(self, file: Path, fragment: str = "") -> None:
        """Go to a file; `wait` for what it should show."""
        self._context = {}
        # A new address that differs in its fragment alone would not load the file again.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=file.absolute().as_uri() + fragment)

    def into_frame(self) -> None:
        """Let `value` and `wait` speak to the page's only frame."""

        def entered() -> bool:
            tree = self.call("Page.getFrameTree")["frameTree"]
            if not (children := tree.get("childFrames")):
                return False
            own = children[0]["frame"]["id"]
            made = [
                event["params"]["context"]
                for event in self.browser.events
                if event["method"] == "Runtime.executionContextCreated"
            ]
            found = [one["id"] for one in made if one["auxData"].get("frameId") == own]
            self._context = {"contextId": found[-1]} if found else {}
            return bool(found)

        _until(entered, "the page has no frame")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is, awaited if it is a promise."""
        got = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            **self._context,
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """Wait until an expression is true, and can be evaluated at all, and return its value."""
        tried = f"(() => {{ try {{ return {expression}; }} catch {{ return null; }} }})()"
        return _until(lambda: self.value(tried), expression, seconds)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key of `KEYS`."""
        text = {"Enter": "\r", " ": " "}.get(key)
        given = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 if shift else 0}
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        got = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(got["data"]))

    @property
    def complaints(self) -> list[str]:
        """What any page said on its console, exceptions and refused requests among it."""
        self.value("0")  # whatever was said before this is there now
        found = []
        for event in self.browser.events:
            given = event.get("params", {})
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(str(given["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(given["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                found.append(given["entry"]["text"])
        return found

    @property
    def requested(self) -> list[str]:
        """Addresses that were asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]


def _until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")
