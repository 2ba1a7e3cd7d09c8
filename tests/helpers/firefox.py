"""Debian's Firefox without a window, driven through Marionette, its own protocol on a local port."""

import contextlib
import json
import os
import socket
import subprocess
import time

from helpers import programs

SETTINGS = {
    "app.update.enabled": False,
    "browser.download.folderList": 2,  # the folder of browser.download.dir
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


class Firefox:
    """A browser with one page. ``call`` sends a command of WebDriver, by its name in Marionette."""

    def __init__(self, folder, connection):
        self.folder, self._connection, self._number = folder, connection, 0
        self._answers = connection.makefile("rb")
        self._read()  # its greeting
        self.call("WebDriver:NewSession")

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder):
        """A running browser with downloads to a folder; skips the test when there is none."""
        (program,) = programs.find("firefox-esr")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "profile").mkdir()
        settings = SETTINGS | {"marionette.port": port, "browser.download.dir": str(folder)}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items()]
        (folder / "profile/user.js").write_text("".join(lines))
        command = [program, "--headless", "--marionette", "--no-remote", "--profile", folder / "profile"]
        with open(folder / "firefox.log", "wb") as log:
            environment = os.environ | {"HOME": str(folder)}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            with _connect(port) as connection:
                yield cls(folder, connection)
        finally:
            process.terminate()
            process.wait(20)

    def open(self, address):
        self.call("WebDriver:Navigate", url=address)

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        return self.call("WebDriver:ExecuteScript", script=f"return {expression}", args=[])["value"]

    def wait(self, condition, timeout_s=30):
        """Wait until a condition in JavaScript holds."""
        end = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} does not hold after {timeout_s} s"
            time.sleep(0.1)

    def click(self, selector):
        self.call("WebDriver:ElementClick", id=self._element(selector))

    def choose_file(self, selector, path):
        self.call("WebDriver:ElementSendKeys", id=self._element(selector), text=str(path))

    def downloaded(self, name, timeout_s=20):
        """The path of a file whose download has been completed."""
        path, end = self.folder / name, time.monotonic() + timeout_s
        while not path.is_file() or path.stat().st_size == 0 or path.with_name(f"{name}.part").exists():
            assert time.monotonic() < end, f"{name} was not downloaded"
            time.sleep(0.1)
        return path

    def call(self, name, **parameters):
        self._number += 1
        message = json.dumps([0, self._number, name, parameters]).encode()
        self._connection.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        assert error is None, (name, error)
        return result

    def _element(self, selector):
        found = self.call("WebDriver:FindElement", using="css selector", value=selector)["value"]
        return next(iter(found.values()))

    def _read(self):
        size = b""
        while (character := self._answers.read(1)) != b":":
            assert character, f"no answer from Firefox: {(self.folder / 'firefox.log').read_text()[-2000:]}"
            size += character
        return json.loads(self._answers.read(int(size)))


def _connect(port, timeout_s=40):
    end = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            assert time.monotonic() < end, f"Firefox does not listen after {timeout_s} s"
            time.sleep(0.2)
