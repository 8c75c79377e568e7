"""The page in a browser: what is typed comes back, and only to its own origin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.examples.app import App

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 20

STRANGER = b"""<!DOCTYPE html>
<title>waiting</title>
<script>
  const socket = new WebSocket(`ws://${location.hash.slice(1)}/ws`);
  socket.onopen = () => document.title = "open";
  socket.onclose = () => document.title = "refused";
</script>
"""


@pytest.fixture(scope="module")
def stranger() -> Iterator[int]:
    """The port of a page that connects to the host in its fragment."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(STRANGER)))
            self.end_headers()
            self.wfile.write(STRANGER)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def wait_for_text(browser: Chrome, selector: str, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
    from selenium.webdriver.support.wait import WebDriverWait

    condition = text_to_be_present_in_element((By.CSS_SELECTOR, selector), text)
    WebDriverWait(browser, PATIENCE).until(condition)


def labelled(browser: Chrome, label: str) -> WebElement:
    """The field that a screen reader calls `label`."""
    return next(
        element
        for element in browser.find_elements("css selector", "input")
        if element.accessible_name == label
    )


def open_page(browser: Chrome, app: App) -> None:
    browser.get(f"http://127.0.0.1:{app.port}/")
    wait_for_text(browser, "#state", "open")


def echoes(browser: Chrome) -> list[str]:
    return [item.text for item in browser.find_elements("css selector", "#messages li")]


def test_what_is_sent_is_in_the_list(app: App, browser: Chrome) -> None:
    open_page(browser, app)
    assert echoes(browser) == []
    labelled(browser, "Message").send_keys("from the button")
    browser.find_element("xpath", "//button[.='Send']").click()
    wait_for_text(browser, "#messages li", "from the button")
    labelled(browser, "Message").send_keys("with <b>Enter</b>\n")
    wait_for_text(browser, "#messages li:nth-child(2)", "with <b>Enter</b>")
    assert echoes(browser) == ["from the button", "with <b>Enter</b>"]
    assert labelled(browser, "Message").get_property("value") == ""


# What the page's own close comes to: a `CloseEvent`.
CLOSES = """
  const [told] = arguments;
  const socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onopen = () => socket.close(4001, "the page's reason");
  socket.onclose = (event) => told([event.code, event.reason, event.wasClean]);
"""


def test_the_close_of_a_page_is_answered_with_its_reason(app: App, browser: Chrome) -> None:
    open_page(browser, app)
    browser.set_script_timeout(PATIENCE)
    assert browser.execute_async_script(CLOSES) == [4001, "the page's reason", True]


def test_a_page_of_another_origin_is_refused(app: App, browser: Chrome, stranger: int) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get("about:blank")  # a change of the fragment alone loads nothing
    browser.get(f"http://127.0.0.1:{stranger}/#127.0.0.1:{app.port}")
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.title != "waiting")
    assert browser.title == "refused"
    assert f"origin 'http://127.0.0.1:{stranger}' is not this host" in app.log()


@pytest.mark.parametrize("name", ["falcon", "flask"])
def test_the_page_shows_that_the_connection_has_ended(
    name: str, browser: Chrome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    running = App(name, tmp_path_factory.mktemp(name))
    try:
        running.wait_until_it_accepts()
        open_page(browser, running)
    finally:
        running.stop()
    wait_for_text(browser, "#state", "closed")
    assert not browser.find_element("xpath", "//button[.='Send']").is_enabled()
