"""A headless Chromium, spoken to over a pair of pipes (the DevTools protocol), with nothing but Python's own library."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PATIENCE = 20


class Browser:
    """One process with one page. What the page's console says, and what it asks for, is kept."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp(prefix="splitway-browser-")
        ours, theirs = os.pipe(), os.pipe()  # to it, and from it: (read, write)
        # It reads from 3 and writes to 4. Whatever has these numbers now must not be in the way.
        read, write = os.dup(ours[0]), os.dup(theirs[1])
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []

        def pipes():
            high = [os.dup2(read, 100), os.dup2(write, 101)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.folder}", "--disable-gpu",
             "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb", *sandbox, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=pipes,
            pass_fds=(3, 4), start_new_session=True)
        for end in (ours[0], theirs[1], read, write):
            os.close(end)
        self.out, self.into, self.rest, self.number = ours[1], theirs[0], b"", 0
        self.console, self.asked, self.answers = [], [], {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _receive(self, deadline):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser says nothing")
            piece = os.read(self.into, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def _hear(self, message):
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def call(self, method, **told):
        self.number += 1
        message = {"id": self.number, "method": method, "params": told}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self._receive(deadline)
            if said.get("id") != self.number:
                self._hear(said)
            elif "error" in said:
                raise RuntimeError(f"{method}: {said['error']}")
            else:
                return said["result"]

    def run(self, code):
        """The value of an expression, or of the promise that it is."""
        said = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"].get("exception", {}).get("description", code))
        return said["result"].get("value")

    def until(self, what, code, patience=PATIENCE):
        """Waits until an expression is true, and returns it."""
        deadline = time.monotonic() + patience
        while True:
            value = self.run(code)
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {patience} s for {what}; the page says:\n{self.run('document.body.innerText')}")
            time.sleep(0.1)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("the page", f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def look(self, width, height, scheme="light", scale=1, motion="no-preference"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}])

    def press(self, key):
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"Enter": "\r"}.get(key)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def picture(self, path, whole=False):
        options = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        data = self.call("Page.captureScreenshot", **options)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
