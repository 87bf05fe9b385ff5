"""A headless Chromium for tests, driven through chromedriver by the W3C WebDriver protocol: JSON over HTTP."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from PIL import Image

from backend.demo.processes import ChildProcess, free_port

T = TypeVar("T")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element's id
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


class Chromium:
    """One window. A context manager; `folder` takes its profile and log."""

    def __init__(self, browser: str, driver: str, folder: Path, *, size_wh: tuple[int, int] = (1600, 1000)) -> None:
        port = free_port(9515)
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self._driver = ChildProcess("chromedriver", [driver, f"--port={port}"], log=folder / "driver.log", env=env)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False)
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size_wh[0]},{size_wh[1]}"]
        options = {"binary": browser, "args": flags}
        self._capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 100_000, "pageLoad": 100_000},  # milliseconds: a busy machine takes its time
        }
        self._port = port
        self._session = ""

    def __enter__(self) -> Chromium:
        self._driver.start()
        try:
            self._driver.wait_until_ready(f"http://127.0.0.1:{self._port}/status", timeout_s=30)
            wanted = {"capabilities": {"alwaysMatch": self._capabilities}}
            self._session = f"/session/{self._call('POST', '/session', wanted)['sessionId']}"
        except BaseException:
            self._driver.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._http.close()
            self._driver.stop()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise RuntimeError(f"chromedriver: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def _do(self, method: str, path: str, **body: Any) -> Any:
        return self._call(method, self._session + path, body)

    @property
    def driver_pid(self) -> int | None:
        """Of chromedriver, whose children are all of the browser's processes."""
        return self._driver.pid

    def open(self, url: str) -> None:
        self._do("POST", "/url", url=url)

    @property
    def url(self) -> str:
        return str(self._do("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body in the page."""
        return self._do("POST", "/execute/sync", script=script, args=list(arguments))

    def wait_for(self, what: Callable[[], T], *, timeout_s: float = 60.0) -> T:
        """The first true value of `what`."""
        deadline = time.monotonic() + timeout_s
        while not (value := what()):
            assert time.monotonic() < deadline, f"nothing after {timeout_s:.0f} s; the page says: {self.text()[:500]}"
            time.sleep(0.2)
        return value

    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    def find(self, selector: str, number: int = 0) -> str | None:
        """The id of an element that a CSS selector finds, the first if not told which."""
        found = self._do("POST", "/elements", using="css selector", value=selector)
        return found[number][ELEMENT] if number < len(found) else None

    def type(self, selector: str, text: str, number: int = 0) -> None:
        element = self.wait_for(lambda: self.find(selector, number))
        self._do("POST", f"/element/{element}/value", text=text)

    def click(self, selector: str, number: int = 0) -> None:
        element = self.wait_for(lambda: self.find(selector, number))
        self._do("POST", f"/element/{element}/click")

    def click_text(self, text: str) -> None:
        """The innermost element that shows exactly this text."""
        script = """
          const found = [...document.querySelectorAll('*')].filter(one => one.innerText === arguments[0]).at(-1);
          if (found) found.click();
          return Boolean(found);"""
        self.wait_for(lambda: self.run(script, text))

    def drag(self, points_xy: list[tuple[int, int]]) -> None:
        """Presses the mouse at the first point, moves through the others, and lets go. Viewport pixels."""
        moves = [{"type": "pointerMove", "duration": 60, "x": int(x), "y": int(y)} for x, y in points_xy]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self._do("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def press(self, keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def key(self, kind: str, key: str) -> None:
        """kind: keyDown or keyUp."""
        actions = [{"type": kind, "value": key}]
        self._do("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def wheel(self, point_xy: tuple[int, int], delta_y: int) -> None:
        """Turns the wheel over a point of the viewport."""
        turn = {"type": "scroll", "x": point_xy[0], "y": point_xy[1], "deltaX": 0, "deltaY": delta_y, "duration": 100}
        self._do("POST", "/actions", actions=[{"type": "wheel", "id": "wheel", "actions": [turn]}])

    def screenshot(self) -> np.ndarray:
        """HxWx3 uint8 RGB of the window."""
        with Image.open(io.BytesIO(base64.b64decode(self._do("GET", "/screenshot")))) as image:
            return np.asarray(image.convert("RGB"))

    def resize(self, width: int, height: int) -> None:
        """The window, its bars included."""
        self._do("POST", "/window/rect", width=width, height=height)

    def settle(self) -> None:
        """Until the window looks the same for a second: images loaded, masks decoded, animations over."""
        before = self.screenshot()
        time.sleep(1)
        while not np.array_equal(before, now := self.screenshot()):
            before = now
            time.sleep(1)

    def log_in(self, url: str, user: str, password: str) -> None:
        """To the Label Studio at `url`."""
        self.open(f"{url}/user/login/")
        self.type("input[name=email]", user)
        self.type("input[name=password]", password)
        self.click("button[type=submit]")
        self.wait_for(lambda: "login" not in self.url)

    def errors(self) -> list[str]:
        """What the page's console reported as an error since the last call."""
        logged = self._do("POST", "/se/log", type="browser")
        return [entry["message"] for entry in logged if entry["level"] == "SEVERE"]
