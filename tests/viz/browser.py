"""A real browser for tests: Debian's chromium without a display, over a pipe, one page at a time.

The DevTools protocol on file descriptors 3 and 4: JSON messages that end with a zero byte.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 60
"""For any one answer."""
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
             "--hide-scrollbars", "--force-color-profile=srgb")  # fmt: skip


class Browser:
    """Opens one file after the other; what the page complains of is in `complaints`.

    Args:
        profile: an empty folder for the browser's own files.
    """

    def __init__(self, profile: Path):
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        self._numbers, self._rest = itertools.count(1), b""
        self.complaints: list[str] = []
        self.requests: list[str] = []

        def descriptors() -> None:
            os.dup2(read, 100)  # out of the way of each other first
            os.dup2(write, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        self._process = subprocess.Popen(
            [PROGRAM, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=descriptors, close_fds=False, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        answer = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self.ask("Browser.close")
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method answers; AssertionError where it fails or takes too long."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(told["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, path: Path, width: int = 1000, height: int = 900, scheme: str = "light") -> None:
        """Load a file, as a double click would, into a window of so many pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true in the page."""
        self.until(lambda: self.run(condition))

    def until(self, condition: Callable[[], Any]) -> None:
        """Until something is true here; what the page tells meanwhile is taken note of."""
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, "the page never came to this"
            self.run("1")
            time.sleep(0.02)

    def text(self, name: str) -> str:
        """Of an element, by its id."""
        return self.run(f"document.getElementById({json.dumps(name)}).textContent")

    def box(self, selector: str) -> dict[str, float]:
        """x, y, width, height of an element in the window, scrolled into it."""
        return self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'nearest'}); "
            "const b = e.getBoundingClientRect(); "
            "return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
        )

    def mouse(self, kind: str, x: float, y: float, pressed: bool = False) -> None:
        """ "Pressed", "Released" or "Moved", at a place of the window."""
        more = {"button": "left", "clickCount": 1} if kind != "Moved" else {}
        self.ask("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y,
                 buttons=int(pressed), **more)  # fmt: skip

    def click(self, x: float, y: float) -> None:
        self.mouse("Moved", x, y)
        self.mouse("Pressed", x, y, True)
        self.mouse("Released", x, y)

    def press(self, key: str, shift: bool = False) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=8 * shift)

    def picture(self, path: Path) -> None:
        """Of the whole page as it is now."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
