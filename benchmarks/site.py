"""The built site in a real browser: console, links, texts for pictures, contrast, narrow screens.

Usage: python benchmarks/site.py SITE [--pictures DIR]

``make site`` builds it and runs this with a Chromium and its chromedriver on the path. Every page
is opened at 1280 and at 400 pixels, light and dark. It ends with an error where the console of the
browser has one, a picture says nothing to those who do not see it, a text has less contrast than
WCAG 2.2 AA asks for (4.5 to 1, large texts 3 to 1), a page is wider than the screen, has no title
of its own or not exactly one heading of level 1, or an address leads nowhere.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium.webdriver.support.ui import WebDriverWait
from viewer import chromium

LOOK = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


READY = "return document.readyState === 'complete' && document.querySelector('article') !== null"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what goes wrong is seen in the browser."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=Path, help="write a picture of every page here")
    given = parser.parse_args(arguments)
    handler = partial(_Quiet, directory=str(given.site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    pages = sorted(file.parent.relative_to(given.site) for file in given.site.rglob("index.html"))
    known = {page.as_posix().strip(".") for page in pages}
    wrong: list[str] = []
    for width in (1280, 400):
        for dark in (False, True):
            with chromium(width, dark) as browser:
                for page in pages:
                    name = page.as_posix().strip(".")
                    where = f"/{name} at {width} pixels, {'dark' if dark else 'light'}"
                    browser.get(f"{address}/{name + '/' if name else ''}")
                    WebDriverWait(browser, 20).until(lambda page: page.execute_script(READY))
                    found, links = browser.execute_script(LOOK)
                    wrong += [f"{where}: {text}" for text in found]
                    for entry in browser.get_log("browser"):
                        if entry["level"] == "SEVERE":
                            wrong.append(f"{where}: {entry['message']}")
                    for link in links:
                        path = link.removeprefix(address).partition("#")[0].strip("/")
                        if path not in known and not (given.site / path).is_file():
                            wrong.append(f"{where}: {link} leads nowhere")
                    if given.pictures is not None and not dark:
                        given.pictures.mkdir(parents=True, exist_ok=True)
                        title = name.replace("/", "-") or "home"
                        browser.save_screenshot(str(given.pictures / f"{title}-{width}.png"))
    server.shutdown()
    print("\n".join(dict.fromkeys(wrong)))
    print(f"{len(pages)} pages, four ways each: {len(set(wrong))} faults", file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
