"""A browser for the tests in this folder: the system's Chromium, without any network."""

import contextlib
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = (
    "Chromium is not here, so the browser tests were not run: "
    "install it, as in 'apt install chromium', or set CHROMIUM=/path/to/it."
)


def find_chromium():
    """Path of the browser that CHROMIUM names or the system has, None without one."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else NAMES)), None)


def is_local(url):
    """Whether a request for `url` stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob") or parts.hostname in ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that resolves no name but localhost.

    One per file, not per session: while Playwright is open its event loop counts as running, and
    an `asyncio.run` in any other test file would be refused.
    """
    path = find_chromium()
    if path is None and os.environ.get("CI"):
        pytest.fail(MISSING)
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=getattr(os, "geteuid", lambda: 1)() != 0,  # root has to do without
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"],
        )
        yield chromium
        chromium.close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def serve():
    """A function from a folder to the address, with a slash at its end, at which it is served."""
    with contextlib.ExitStack() as servers:

        def start(folder):
            handler = partial(QuietHandler, directory=folder)
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            servers.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


@pytest.fixture
def complaints():
    """What the pages of `page` complained of so far, one line each; a test may clear it."""
    return []


@pytest.fixture
def page(browser, complaints):
    """An empty page, 1280 × 1000; an error in it or a request to elsewhere fails the test."""
    with watched_page(browser, complaints) as page:
        yield page


@pytest.fixture(scope="module")
def shared_page(browser):
    """The same for all tests of a file; what it complained of fails the last of them."""
    with watched_page(browser, []) as page:
        yield page


@contextlib.contextmanager
def watched_page(browser, complaints):
    """Open a page; on leaving, fail if it complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})

    def on_console(message):
        if message.type == "error":
            complaints.append(f"console: {message.text} ({message.location['url']})")

    def on_request(request):
        if not is_local(request.url):
            complaints.append(f"request to elsewhere: {request.url}")

    def on_failure(request):
        # A page that is left or asks anew lets go of its own requests: nothing went wrong.
        if request.failure != "net::ERR_ABORTED":
            complaints.append(f"request failed: {request.url} ({request.failure})")

    def on_page(page):
        page.on("websocket", on_request)

    context.on("console", on_console)
    context.on("weberror", lambda fault: complaints.append(f"error in the page: {fault.error}"))
    context.on("request", on_request)
    context.on("requestfailed", on_failure)
    context.on("page", on_page)
    yield context.new_page()
    context.close()
    assert not complaints, "\n".join(complaints)
