"""A browser for the tests in this folder: the system's Chromium, without any network."""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".*", "outputs", "runs", "mine", "unpacked", "_build", "__pycache__")
NAMES = ("chromium", "chromium-browser", "google-chrome",
         "/Applications/Chromium.app/Contents/MacOS/Chromium",
         "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
MISSING = ("Chromium is not here, so the browser tests were not run: "
           "install it, as in 'apt install chromium', or set CHROMIUM=/path/to/it.")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium without network; one per file, for while it is open a loop runs."""
    named = os.environ.get("CHROMIUM")
    path = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=getattr(os, "geteuid", lambda: 1)() != 0,  # root has to do without
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"],
        )


@pytest.fixture(scope="module")
def page(browser):
    """One page for all tests of a file; at the end, its complaints so far fail the last."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.complaints = complaints = []

    def complain(what):
        complaints.append(f"{what} (on {page.url})")

    def on_request(request):
        place = urlsplit(request.url)
        if place.scheme not in ("file", "data", "blob") and place.hostname != "127.0.0.1":
            complain(f"request to elsewhere: {request.url}")

    context.on("request", on_request)
    page.on("websocket", on_request)
    context.on("weberror", lambda fault: complain(f"error in the page: {fault.error}"))
    context.on("console", lambda line: line.type == "error" and complain(
        f"console: {line.text} {line.location['url']}"))
    context.on("requestfailed", lambda request: request.failure != "net::ERR_ABORTED" and complain(
        f"request failed: {request.url}, {request.failure}"))  # a page that is left aborts its own
    yield page
    context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the working tree under an awkward name, so that nothing here is changed."""
    folder = tmp_path_factory.mktemp("clone") / "Grüße, aus der Schublade"
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))


@pytest.fixture(scope="session")
def serve():
    """A function from a folder to the address, with a slash at its end, at which it is served."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    return start
