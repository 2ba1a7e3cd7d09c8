"""Debian's Chromium without a window, driven through the DevTools protocol over a pipe."""

import base64
import contextlib
import json
import os
import select
import subprocess
import time

from helpers import programs

SWITCHES = [
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
]


class Chromium:
    """A browser with one page.

    ::

        with Chromium.started(tmp_path, microphone=wav_file) as browser:
            browser.open(page.as_uri())
            browser.click("#record")

    Attributes:
        requests: addresses of everything that the pages have asked for, data and blob URLs left out.
        messages: what the pages have written to the console, errors included.
    """

    def __init__(self, folder, to_browser, from_browser):
        self.folder = folder
        self._to_browser, self._from_browser = to_browser, from_browser
        self._pending, self._number, self._session = b"", 0, None
        self.requests, self.messages = [], []
        self.downloads = {}  # name of a completed one: True; identifier of another: its name
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility", "DOM"):
            self._call(f"{domain}.enable")
        behavior = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self._call("Browser.setDownloadBehavior", **behavior)

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder, microphone=None):
        """A running browser; skips the test when there is none.

        Args:
            folder: for its profile and for downloads.
            microphone: a WAV file that the fake microphone plays; permission is given.
        """
        (program,) = programs.find("chromium")
        command = [program, *SWITCHES, f"--user-data-dir={folder / 'profile'}"]
        if microphone:
            command += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
            command += [f"--use-file-for-fake-audio-capture={microphone}"]
        read_end, to_browser = os.pipe()
        from_browser, write_end = os.pipe()
        moved = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'  # the pipe's ends are 3 and 4
        command = ["bash", "-c", moved, "bash", str(read_end), str(write_end), *map(str, command)]
        with open(folder / "chromium.log", "wb") as log:
            process = subprocess.Popen(command, pass_fds=(read_end, write_end), stdout=log, stderr=log)
        os.close(read_end)
        os.close(write_end)
        try:
            yield cls(folder, to_browser, from_browser)
        finally:
            os.close(to_browser)  # it then ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            os.close(from_browser)

    def open(self, address, width=1000, dark=False):
        """Open a page and wait until it is loaded."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression):
        """The value of an expression of JavaScript, promises resolved, as with the activation of a user."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, timeout_s=30):
        """Wait until a condition in JavaScript holds."""
        end = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} does not hold after {timeout_s} s; {self.messages}"
            time.sleep(0.1)

    def click(self, selector):
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key, code=None, text=None):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **extra)

    def choose_file(self, selector, path):
        """Choose a file in an input element."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def downloaded(self, name, timeout_s=20):
        """The path of a file whose download has been completed."""
        end = time.monotonic() + timeout_s
        while not self.downloads.get(name):
            assert time.monotonic() < end, f"{name} was not downloaded; {self.downloads}"
            self.evaluate("0")  # events arrive with answers
            time.sleep(0.1)
        return self.folder / name

    def accessible_nodes(self):
        """(role, name) of everything that assistive technology sees."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        visible = [node for node in nodes if not node["ignored"]]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in visible]

    def screenshot(self, path):
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _read(self, timeout_s=60):
        while b"\0" not in self._pending:
            ready = select.select([self._from_browser], [], [], timeout_s)[0]
            chunk = os.read(self._from_browser, 1 << 16) if ready else b""
            assert chunk, f"no answer from Chromium: {(self.folder / 'chromium.log').read_text()[-2000:]}"
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)

    def _note(self, event, parameters):
        if event == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                self.requests.append(address)
        elif event == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(value.get("value")) for value in parameters["args"]))
        elif event == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Browser.downloadWillBegin":
            self.downloads[parameters["guid"]] = parameters["suggestedFilename"]
        elif event == "Browser.downloadProgress" and parameters["state"] == "completed":
            self.downloads[self.downloads.pop(parameters["guid"], "")] = True
