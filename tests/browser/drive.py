"""What a stranger sees on the dashboard: of a rollout that goes wrong, of a split from flags, behind a token and a prefix."""

import argparse
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from browser import Browser

FREE = "127.0.0.1:0"


class Proxy:
    """A splitway, until it is closed."""

    def __init__(self, program, *args):
        self.process = subprocess.Popen([program, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            found = re.search(r"http://(127\.0\.0\.1:\d+)/", line)
            if found and re.match(r"open|admin", line):
                self.admin = found[1]
            elif found and line.startswith("proxy"):
                self.proxy = found[1]
            if hasattr(self, "admin") and hasattr(self, "proxy"):
                break
        else:
            raise AssertionError(f"{args} says only {self.lines}")
        # Nobody else reads what it goes on to say.
        threading.Thread(target=lambda: self.process.stdout.read(), daemon=True).start()

    def close(self):
        self.process.terminate()
        self.process.wait(20)


def ask(address, path, headers={}):
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def text(id):
    return f"document.getElementById({json.dumps(id)}).innerText"


class Prefixed(http.server.ThreadingHTTPServer):
    """What stands before dashboards in companies: /tools/splitway/ is the admin listener, streams and all."""

    daemon_threads = True

    def __init__(self, admin):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                if not self.path.startswith("/tools/splitway/"):
                    self.send_error(404)
                    return
                connection = http.client.HTTPConnection(admin, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                connection.request("GET", self.path[len("/tools/splitway"):], headers=headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.end_headers()
                try:
                    while piece := answer.read1(65536):
                        self.wfile.write(piece)
                        self.wfile.flush()
                except (OSError, http.client.HTTPException):
                    pass

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server_address[1]}"


class Checks:
    def __init__(self, options):
        self.options = options
        self.browser = Browser(options.chromium)

    def quiet(self, *hosts):
        """Nothing went wrong in the page, and it asked nobody else."""
        assert not self.browser.console, f"the console says {self.browser.console}"
        strangers = {url for url in self.browser.asked
                     if urllib.parse.urlparse(url).netloc not in hosts and not url.startswith(("about:", "data:", "chrome:"))}
        assert self.browser.asked and not strangers, f"asked {strangers}"

    def judged(self, what):
        """By axe-core: contrast, labels, landmarks and the rest of WCAG 2.1 A and AA."""
        if not os.path.exists(self.options.axe):
            print(f"   {what}: not judged, axe-core is not there (it needs npm)")
            return
        with open(self.options.axe) as file:
            # Not through the page's policy, which admits nothing from elsewhere: straight into the engine.
            self.browser.call("Runtime.evaluate", expression=file.read())
        found = self.browser.run(
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
            ".then((r) => r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target + ' ' + n.failureSummary).join('; ')))")
        assert not found, f"{what}: " + "\n".join(found)
        print(f"   {what}: axe-core finds nothing")

    def picture(self, name, **more):
        if self.options.pictures:
            os.makedirs(self.options.pictures, exist_ok=True)
            self.browser.picture(os.path.join(self.options.pictures, name), **more)

    def a_rollout_goes_wrong(self):
        browser = self.browser
        began = time.monotonic()
        proxy = Proxy(self.options.splitway, "demo", "--fail-canary", "--step", "120s", "--listen", FREE, "--admin", FREE)
        try:
            browser.look(1200, 830)
            browser.open(f"http://{proxy.admin}/")
            browser.until("a moving plot", "document.querySelectorAll('.u-over').length === 5 && "
                          + text("live-text") + " === 'live' && /sent [1-9]/.test(" + text("share-legend") + ")", 10)
            print(f"   the plot moves {time.monotonic() - began:.1f} s after the start of the demo")
            first = browser.run("document.getElementById('share').getAttribute('aria-label')")
            assert re.search(r"asked 5\s%, sent \d", first), first
            browser.until("the verdict", "/^Rolled back: the canary failed \\d/.test(" + text("headline") + ")", 30)
            said = browser.run(text("verdict"))
            print("   " + " ".join(said.split()))
            # What happened, to how many requests, and why.
            for part in (r"failed \d+ of \d+ requests \((1[0-9]|2[0-9])(\.\d)?\s%\)", r"was aborted at the weight of step \d of 5",
                         r"The canary's weight went from 5\s% back to 0 at \d\d:\d\d:\d\d", r"All requests go to stable",
                         r"Aborted: the canary failed", r"status\.abort"):
                assert re.search(part, said), f"{part} is not in {said!r}"
            assert browser.run("document.querySelector('#steps [data-at=ended] .what').innerText") == "setWeight 5"
            table = browser.run(text("rollouts"))
            assert "aborted" in table, table
            aloud = browser.run("document.getElementById('told').textContent")
            assert aloud.startswith("Rolled back"), aloud
            time.sleep(2)
            self.picture("dashboard-light.png")
            self.judged("light")
            browser.look(1200, 830, "dark")
            time.sleep(0.5)
            self.picture("dashboard-dark.png")
            self.judged("dark")
            browser.look(390, 844, "light", 1.5)
            time.sleep(0.7)
            wide = browser.run("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"at the width of a phone {wide} pixels are out of sight"
            self.picture("dashboard-phone.png")
            self.picture("dashboard-phone-whole.png", whole=True)
            self.judged("phone")
            browser.look(1200, 830)
            time.sleep(0.5)
            self.picture("dashboard-whole.png", whole=True)
            # Where a fact comes from, by the keyboard alone.
            browser.run("document.querySelector('#reason button.field').focus()")
            browser.press("Enter")
            browser.until("the field", "document.getElementById('field').open")
            assert "kubectl explain rollout.status.abort" in browser.run(text("field"))
            self.judged("the field")
            browser.press("Escape")
            browser.until("the end of the dialog", "!document.getElementById('field').open")
            assert browser.run("document.activeElement.matches('#reason button.field')")
            # The table for those who cannot read a plot.
            browser.run("document.querySelector('#as-table summary').click()")
            browser.until("the table", "document.querySelectorAll('#table tr').length > 3")
            self.quiet(proxy.admin)
        finally:
            proxy.close()
        browser.until("that nobody is heard", text("live-text") + " !== 'live'")
        browser.console.clear()

    def a_split_is_explained(self):
        browser = self.browser
        apps = [subprocess.Popen([self.options.splitway, "app", "--name", name], stdout=subprocess.PIPE, text=True)
                for name in ("stable", "canary")]
        addresses = [re.search(r"127\.0\.0\.1:\d+", app.stdout.readline())[0] for app in apps]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "splitway.yaml")

            def write(percent):
                with open(path + ".new", "w") as file:
                    file.write(f"""
listeners: [{{ address: "{FREE}" }}]
admin: {{ address: "{FREE}", token-file: token }}
backends: {{ stable: {{ endpoints: ["{addresses[0]}"] }}, canary: {{ endpoints: ["{addresses[1]}"] }} }}
split: {{ stable: {100 - percent}%, canary: {percent}% }}
sticky: {{ key: [{{ header: x-user }}], salt: browser }}
routes: [{{ name: testers, match: [{{ path: {{ prefix: /beta }} }}], backend: canary }}]
""")
                os.rename(path + ".new", path)

            with open(os.path.join(folder, "token"), "w") as file:
                file.write("a-token-that-nobody-guesses\n")
            write(10)
            started = apps[:]
            try:
                proxy = Proxy(self.options.splitway, "run", "--config", path)
                started.append(proxy.process)
                prefixed = Prefixed(proxy.admin)
                status, _ = ask(proxy.admin, "/config")
                assert status == 401, status
                browser.look(1200, 830)
                # The page of before goes on asking a proxy that has ended, until it is left.
                browser.open("about:blank")
                browser.asked.clear()
                browser.console.clear()
                browser.open(f"http://{prefixed.address}/tools/splitway/")
                browser.until("the form for the token", "!document.getElementById('locked').hidden")
                self.judged("the token")
                # The first 401 is in the console; that is the browser's way.
                browser.console = [line for line in browser.console if "401" not in line]
                browser.run("document.getElementById('token').focus()")
                browser.type("not-the-token-at-all")
                browser.press("Enter")
                browser.until("the refusal", "/not the token/.test(" + text("token-answer") + ")")
                # What no header can carry is no token, and asks nobody.
                browser.type("schl\u00fcssel-schl\u00fcssel")
                browser.press("Enter")
                browser.until("what is wrong with it", "/That is no token/.test(" + text("token-answer") + ")")
                browser.type("a-token-that-nobody-guesses")
                browser.press("Enter")
                browser.until("the dashboard", text("live-text") + " === 'live'")
                browser.console = [line for line in browser.console if "401" not in line]
                browser.until("the split", "/canary is being rolled out: 10\\s%/i.test(" + text("headline") + ")")
                for _ in range(200):
                    status, _ = ask(proxy.proxy, "/")
                    assert status == 200, status
                assert browser.run("document.getElementById('programs').hidden"), "links that a token would be needed for"
                # Which version does user 42 get, and why?
                assert browser.run("document.getElementById('x-key').value") == "42"
                assert browser.run("document.getElementById('x-header').value") == ""
                browser.run("document.getElementById('x-path').focus()")
                browser.press("Enter")
                answer = browser.until("the answer", "document.querySelector('#explained .answer')?.innerText")
                truth = json.loads(ask(proxy.admin, "/explain?header=x-user:42", {"authorization": "Bearer a-token-that-nobody-guesses"})[1])
                assert answer.lower() == f"the {truth['role']}, by the user's bucket.", (answer, truth)
                assert browser.run("document.querySelectorAll('#explained li.decided').length") == 1
                browser.run("document.getElementById('x-path').value = '/beta/1'; document.getElementById('explain').requestSubmit()")
                browser.until("the route", "/by the route testers/.test(" + text("explained") + ")")
                browser.run("document.getElementById('x-path').value = 'beta'; document.getElementById('explain').requestSubmit()")
                browser.until("what is wrong with it", "/does not begin with \\//.test(" + text("explained") + ")")
                browser.console = [line for line in browser.console if "400" not in line]
                # An endpoint dies: the only one of its version is kept, and seen as what it is.
                card = "[...document.querySelectorAll('.version')].find((one) => /^Canary/.test(one.innerText)).querySelector('.endpoints').innerText"
                assert re.search(rf"{re.escape(addresses[1])}\s+active", browser.run(card)), browser.run(card)
                apps[1].terminate()
                apps[1].wait(20)
                deadline = time.monotonic() + 20
                while not re.search("unreachable.*: connect refused", said := browser.run(card)):
                    assert time.monotonic() < deadline, said
                    ask(proxy.proxy, "/")
                    time.sleep(0.01)
                again = subprocess.Popen([self.options.splitway, "app", "--name", "canary", "--listen", addresses[1]], stdout=subprocess.PIPE, text=True)
                started.append(again)
                again.stdout.readline()
                deadline = time.monotonic() + 30
                while not re.search(rf"{re.escape(addresses[1])}\s+active", said := browser.run(card)):
                    assert time.monotonic() < deadline, said
                    ask(proxy.proxy, "/")
                    time.sleep(0.01)
                # A change is seen, and what somebody reads stays where it is.
                browser.run("document.getElementById('x-path').focus()")
                write(50)
                browser.until("the change", "/asked 50\\s?%/.test(" + text("changes") + ")")
                browser.until("the plot", "/asked 50\\s%/.test(" + text("share-legend") + ")")
                assert browser.run("document.activeElement.id") == "x-path"
                self.quiet(prefixed.address)
                prefixed.shutdown()
            finally:
                for process in started:
                    process.terminate()
                    process.wait(20)


def main():
    arguments = argparse.ArgumentParser()
    for name in ("splitway", "chromium", "axe"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--pictures", help="where to put pictures of what was seen")
    options = arguments.parse_args()
    checks = Checks(options)
    try:
        for check in (checks.a_rollout_goes_wrong, checks.a_split_is_explained):
            print(f"-- {check.__name__.replace('_', ' ')}")
            check()
    finally:
        checks.browser.close()
    print("all that was looked at is as it should be")


if __name__ == "__main__":
    sys.exit(main())
