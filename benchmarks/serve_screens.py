"""Pictures of the pages for the README: a served `pocket` in headless Chromium (Debian: apt install chromium).

    python benchmarks/serve_screens.py docs/images

Asks about a brand's mark, previews another name for it on eight probes, ships it, and looks at all pages, by day and by night.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from serving import QUESTION, Client, brand_pictures, served


def main() -> None:
    """Writes serve.png, serve_edit.png, serve_map.png and serve_phone.png."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    pictures = brand_pictures(400)
    apple = [url for brand, url in pictures if brand == "Apple"]
    others = list({brand: url for brand, url in pictures if brand != "Apple"}.items())
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as (address, _), sync_playwright() as playwright:
        client, folder = Client(address), Path(name)
        (folder / "apple.png").write_bytes(base64.b64decode(apple[0].partition(",")[2]))
        for url in [*apple[:3], *(url for _, url in others[:4])]:
            client.call("POST", "/v1/probes", {"question": QUESTION, "image": url})
        client.call("POST", "/v1/probes", {"question": "What is the capital of France?"})
        for number, answer in enumerate(("Toyota", "Nokia", "Lego")):
            body = {"question": QUESTION, "answer": answer, "image": others[5 + number][1], "probes": "none"}
            client.job(client.call("POST", "/v1/edits", {**body, "id": answer.lower(), "reason": "catalogue"})[2]["id"])
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 860}, device_scale_factor=1)
        page.set_default_timeout(120_000)
        page.goto(address)
        page.set_input_files("#picture", folder / "apple.png")
        page.fill("#question", QUESTION)
        page.click("#ask button[type=submit]")
        page.wait_for_selector(".said")
        page.fill("#new", "Dell")
        page.fill("#reason", "the customer's brand was renamed")
        page.click("#edit button[value=preview]")
        page.wait_for_selector("text=probes change")
        page.screenshot(path=given.folder / "serve.png", full_page=True)
        page.click(".job >> text=Make it live")
        page.wait_for_selector("text=Live")
        page.click(".job a")
        page.wait_for_selector("#radius")
        page.screenshot(path=given.folder / "serve_edit.png", full_page=True)
        page.goto(f"{address}/map")
        page.screenshot(path=given.folder / "serve_map.png", full_page=True)
        page.goto(f"{address}/history")
        page.screenshot(path=folder / "history.png", full_page=True)
        shutil.copy(folder / "history.png", given.folder / "serve_history.png")
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=1)
        phone.goto(f"{address}/edits")
        phone.wait_for_load_state("networkidle")
        phone.screenshot(path=given.folder / "serve_phone.png")
        browser.close()


if __name__ == "__main__":
    main()
