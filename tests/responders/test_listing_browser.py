"""Listings as visitors meet them: in a real browser, from a real server of ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from browser import Browser
from conftest import Serving
from wire import Wire, get

from ringserve.responders.listing import PAGE_ITEMS

NARROW = (320, 640)
WIDE = (1200, 800)
CONTRAST_AA = 4.5
"""WCAG 2.2, 1.4.3. Large text may have less; ours has not."""

HOSTILE = [
    b'"><script>document.title=1<!--.txt',
    b"<img src=x onerror=alert(1)>.txt",
    b"&lt;b&gt;&amp;.txt",
    b"javascript:alert(1).txt",
    b"http:.txt",
    b"100%.txt",
    b"%2e%2e%2f.txt",
    b"what?.txt",
    b"a#b.txt",
    b"a\\..\\b.txt",
    b"  leading.txt",
    b"two\nlines\t.txt",
    b"\xff\xfe.txt",
    "\u202etxt.exe.txt".encode(),
    "日本語\u3000.txt".encode(),
    "مرحبا.txt".encode(),
    b"+a;b=c&d.txt",
    b"~'(!*).txt",
]

WORST_CONTRAST = """(() => {
    const channel = value => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        throw new Error("nothing has a background");
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        if (!walker.currentNode.data.trim()) continue;
        const element = walker.currentNode.parentElement;
        const colour = parse(getComputedStyle(element).color);
        if (colour.length > 3 && colour[3] !== 1) throw new Error("a colour that is not opaque");
        const [light, dark] = [luminance(colour), luminance(ground(element))].sort((a, b) => b - a);
        found.push({ratio: (light + .05) / (dark + .05), text: walker.currentNode.data});
    }
    return found.sort((a, b) => a.ratio - b.ratio)[0];
})()"""

NAMES = "[...document.querySelectorAll('tbody bdi')].map(name => name.textContent)"
HREFS = "[...document.querySelectorAll('tbody a')].map(link => link.getAttribute('href'))"
OVERFLOW = """Math.max(
    document.documentElement.scrollWidth,
    ...[...document.querySelectorAll('body *')].map(element => Math.round(element.getBoundingClientRect().right)),
) - innerWidth"""


@pytest.fixture
def tree(site: Path) -> Path:
    """A site with a bit of everything."""
    for name in ("docs/images/raw", "empty", "many"):
        (site / name).mkdir(parents=True)
    for size, name in enumerate(("b.txt", "C.txt", "a 10.txt", "a 9.txt"), start=1):
        (site / "docs" / name).write_bytes(b"x" * (size * 700))
        os.utime(site / "docs" / name, (1, 1_700_000_000 - 86_400 * size))
    (site / "docs" / ("a name of many words " * 10).strip()).touch()
    (site / "docs" / ("ANameThatIsOneLongWord" * 11)).touch()
    for number in range(2 * PAGE_ITEMS + 1):
        (site / "many" / f"{number}.txt").touch()
    return site


@pytest.mark.usefixtures("tree")
def test_a_click_on_a_column_sorts_by_it_and_another_turns_it_around(browser: Browser, serving: Serving) -> None:
    url = serving(listing=True).url
    assert browser.open(f"{url}docs/") == 200
    files = ["a 9.txt", "a 10.txt", "b.txt", "C.txt"]

    def order() -> tuple[list[str], str]:
        names = [name for name in browser.evaluate(NAMES) if name in files]
        return names, browser.evaluate("document.querySelector('[aria-sort]').ariaSort")

    assert browser.evaluate(NAMES)[0] == "images", "directories come first"
    assert order() == (files, "ascending")
    browser.follow("th.name a")
    assert order() == (files[::-1], "descending")
    browser.follow("th.size a")
    by_size = ["a 9.txt", "a 10.txt", "C.txt", "b.txt"]
    assert order() == (by_size, "descending")
    assert browser.evaluate(NAMES)[0] == "images"
    browser.follow("th.size a")
    assert order() == (by_size[::-1], "ascending")
    browser.follow("th.modified a")
    assert order() == (by_size[::-1], "descending")
    browser.follow("th.name a")
    assert browser.url == f"{url}docs/", "the first page by name has one address"
    assert order() == (files, "ascending")


@pytest.mark.usefixtures("tree")
def test_pages_are_followed_to_the_end_and_back(browser: Browser, serving: Serving) -> None:
    browser.open(f"{serving(listing=True).url}many/?sort=name&order=desc")
    seen = browser.evaluate(NAMES)
    for _page in range(2):
        browser.follow("a[rel=next]")
        seen += browser.evaluate(NAMES)
    assert seen == [f"{number}.txt" for number in reversed(range(2 * PAGE_ITEMS + 1))]
    assert browser.evaluate("document.querySelector('a[rel=next]')") is None
    browser.follow("a[rel=prev]")
    assert browser.evaluate(NAMES) == seen[PAGE_ITEMS : 2 * PAGE_ITEMS]
    assert browser.evaluate("document.querySelector('.pages > span').textContent") == "Page 2 of 3"


@pytest.mark.usefixtures("tree")
def test_directories_are_entered_and_left(browser: Browser, serving: Serving) -> None:
    url = serving(listing=True).url
    browser.open(url)
    assert browser.evaluate(NAMES) == ["docs", "empty", "many"]
    assert browser.evaluate("document.querySelector('.up')") is None, "nothing is above the root"
    browser.follow("a[href='./docs/']")
    browser.follow("a[href='./images/']")
    assert browser.url == f"{url}docs/images/"
    assert browser.evaluate("document.querySelector('h1').textContent") == "Index of /docs/images/"
    browser.back()
    assert browser.url == f"{url}docs/"
    browser.follow("a[href='./images/']")
    browser.follow("a[href='./raw/']")
    assert browser.evaluate("document.querySelector('main').innerText").endswith("This directory is empty.")
    browser.follow(".up")
    assert browser.url == f"{url}docs/images/"
    browser.follow(".crumbs li:nth-child(2) a")
    assert browser.url == f"{url}docs/"
    browser.follow(".crumbs a")
    assert browser.url == url


def test_every_name_leads_to_its_own_file(browser: Browser, serving: Serving, site: Path) -> None:
    (site / "favicon.ico").touch()  # which a browser asks for with a page that names no icon, as a text does not
    (site / "d").mkdir()
    for number, name in enumerate(HOSTILE):
        file = os.open(os.path.join(os.fsencode(site / "d"), name), os.O_CREAT | os.O_WRONLY)
        os.write(file, b"file %d" % number)
        os.close(file)
    running = serving(listing=True)
    url = f"{running.url}d/"
    browser.open(url)
    assert browser.evaluate("document.title") == "Index of /d/"
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == len(HOSTILE)
    assert browser.evaluate("document.scripts.length + document.images.length") == 0
    addresses = browser.evaluate("[...document.querySelectorAll('tbody a')].map(link => link.href)")
    with Wire(url) as wire:  # as the browser asks for them, and quicker
        reached = {wire.ask(get("/" + address.removeprefix(running.url))).body for address in addresses}
    assert reached == {b"file %d" % number for number in range(len(HOSTILE))}
    browser.follow("tbody tr:nth-child(1) a")
    assert browser.evaluate("document.body.innerText").startswith("file ")


@pytest.mark.parametrize("size", [NARROW, WIDE])
@pytest.mark.usefixtures("tree")
def test_nothing_is_wider_than_the_screen(browser: Browser, serving: Serving, size: tuple[int, int]) -> None:
    url = serving(listing=True).url
    browser.set_viewport(*size)
    for path in ("", "docs/", "docs/images/raw/", "empty/", "many/?page=2"):
        browser.open(url + path)
        assert browser.evaluate("innerWidth") == size[0]
        assert browser.evaluate(OVERFLOW) <= 0, path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.usefixtures("tree")
def test_text_can_be_read_in_both_schemes(browser: Browser, serving: Serving, dark: bool) -> None:
    url = serving(listing=True).url
    browser.dark(dark)
    for path in ("docs/?sort=size", "empty/", "many/?page=2"):
        browser.open(url + path)
        worst = browser.evaluate(WORST_CONTRAST)
        assert worst["ratio"] >= CONTRAST_AA, (path, worst)
        is_dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
        assert is_dark is dark


@pytest.mark.parametrize("size", [NARROW, WIDE])
@pytest.mark.usefixtures("tree")
def test_it_is_a_table_for_those_who_do_not_see_it(browser: Browser, serving: Serving, size: tuple[int, int]) -> None:
    browser.set_viewport(*size)
    browser.open(f"{serving(listing=True).url}docs/")
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in browser.command("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"]
    ]
    rows = browser.evaluate("document.querySelectorAll('tbody tr').length")
    roles = [role for role, _name in nodes]
    assert ("table", "1 directory, 6 files") in nodes
    assert [name for role, name in nodes if role == "columnheader"] == ["Name", "Size", "Modified (UTC)"]
    assert roles.count("row") == 1 + rows
    assert roles.count("rowheader") == rows
    assert roles.count("cell") + roles.count("gridcell") == 2 * rows
    assert ("navigation", "Breadcrumb") in nodes
    assert ("link", "images/") in nodes


@pytest.mark.usefixtures("tree")
def test_the_keyboard_reaches_every_link_and_shows_where_it_is(browser: Browser, serving: Serving) -> None:
    browser.open(serving(listing=True).url)
    reached = []
    for _link in range(browser.evaluate("document.links.length")):
        browser.press("Tab", 9)
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        reached.append(browser.evaluate("[...document.links].indexOf(document.activeElement)"))
    assert reached == list(range(len(reached)))


@pytest.mark.usefixtures("tree")
def test_no_script_runs_even_if_one_got_in(browser: Browser, serving: Serving) -> None:
    browser.open(serving(listing=True).url)
    browser.evaluate(
        """(() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<i onclick='window.ran = true'>x</i>");
            document.querySelector("i").click();
        })()"""
    )
    assert browser.evaluate("window.ran") is None
    refusals = [line for line in browser.console if "Content Security Policy" in line]
    assert refusals == browser.console
    assert len(refusals) == 2
    browser.console.clear()
