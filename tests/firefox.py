"""The system's Firefox without a window, spoken to by WebDriver BiDi.

Playwright's own Firefox is a patched build that has to be downloaded; of the system's it asks commands that
Firefox 153 does not know.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("firefox-esr", "firefox")
PREFERENCES = {
    "remote.active-protocols": 1,  # WebDriver BiDi
    "app.normandy.enabled": False,  # what a browser asks on its own account
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.provider.mozilla.updateURL": "",
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.server": "data:,",
}


def installed() -> str | None:
    """The path of the system's Firefox, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


async def _connect(address: str) -> WebSocketClientConnection:
    return await websocket_connect(address, max_message_size=2**26)


class Tab:
    """A tab, what was logged as an error in it, and the addresses that it asked for."""

    def __init__(self, address: str, run: Callable[[Coroutine], Any]):
        self.run, self.ids = run, itertools.count(1)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.socket = run(_connect(address))
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.context = self.send("browsingContext.create", type="tab")["context"]

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are noted."""
        return self.run(asyncio.wait_for(self._send(method, params), 60))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self.ids)
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while (text := await self.socket.read_message()) is not None:
            message = json.loads(text)
            if message["type"] == "event":
                self._note(message["method"], message["params"])
            elif message["id"] == number:
                if message["type"] == "error":
                    raise RuntimeError(f"{method}: {message['message']}")
                return message["result"]
        raise RuntimeError(f"{method}: Firefox has closed the connection")

    async def close(self) -> None:
        self.socket.close()

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "network.beforeRequestSent":
            self.asked.append(params["request"]["url"])
        elif params["level"] == "error":
            self.errors.append(params["text"])

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page whole."""
        self.errors, self.asked = [], []
        self.resize(width, height)
        self.send("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def resize(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}
        self.send("browsingContext.setViewport", context=self.context, viewport=viewport)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        found = self.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self.context},
            awaitPromise=True,
        )
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"].get("value", "null"))

    def wait_for(self, expression: str, seconds: float = 30) -> Any:
        """The first value of an expression that is true."""
        until = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > until:
                raise TimeoutError(expression)
            time.sleep(0.1)
        return value


@contextlib.contextmanager
def tab() -> Iterator[Tab]:
    """A tab of a new Firefox with a profile of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        lines = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()
        ]
        Path(profile, "user.js").write_text("\n".join(lines), "utf-8")
        options = ["--headless", "--no-remote", "--profile", profile]
        command = [installed(), *options, "--remote-debugging-port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told, until = Path(profile, "WebDriverBiDiServer.json"), time.monotonic() + 60
            while not told.exists() or not told.read_text("utf-8").endswith("}"):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"Firefox did not start: {process.poll()}")
                time.sleep(0.1)
            place = json.loads(told.read_text("utf-8"))
            # In a thread of its own, since Playwright keeps a loop running in this one.
            with ThreadPoolExecutor(1) as thread:
                runner = asyncio.Runner()
                run = lambda coroutine: thread.submit(runner.run, coroutine).result()  # noqa: E731
                opened = Tab(f"ws://{place['ws_host']}:{place['ws_port']}/session", run)
                yield opened
                run(opened.close())
                thread.submit(runner.close).result()
        finally:
            process.terminate()
            process.wait(30)
