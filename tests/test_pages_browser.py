"""The pages in a headless Chromium: as they are read, by eye, by keyboard and by screen reader.

Each page is opened from its file. Pictures of them are left in `reports/screenshots/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grader import pages
from tests import page_records as records

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SHOTS = Path(__file__).parent.parent / "reports" / "screenshots"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

pytestmark = [
    pytest.mark.pages,
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path"),
]

NAMES = ("index", "index-new", "day23", "solved", "fault", "new", "pictures", "more-pictures")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds of pages, written once."""
    to = tmp_path_factory.mktemp("the reports")
    course = records.course()
    attempts = records.history(course)
    latest = {"day23": records.attempt(records.mixed())}
    pages.write_index(
        "28 days of PyTorch",
        course,
        latest,
        attempts,
        records.NOW,
        to / "index.html",
        records.WEEKS,
    )
    pages.write_index(
        "28 days of PyTorch", course, {}, [], records.NOW, to / "index-new.html", records.WEEKS
    )
    first, second, *others = records.mixed()
    days = {
        "day23": records.attempt(records.mixed()),
        "solved": records.solved(),
        "fault": records.unloadable(),
        "new": None,
        "pictures": records.attempt(
            (
                records.outcome("1.1", records.Status.FAILED, pictures=records.ALL_PICTURES[:5]),
                second,
                *others,
            )
        ),
        "more-pictures": records.attempt(
            (
                records.outcome("1.1", records.Status.FAILED, pictures=records.ALL_PICTURES[5:]),
                second,
                *others,
            )
        ),
    }
    assert first.pictures
    for name, attempt in days.items():
        pages.write_exercise(
            records.DAY23,
            records.STATEMENT,
            attempts if attempt else [],
            attempt,
            {},
            records.NOW,
            to / f"{name}.html",
            reference={"self_attention.py": records.REFERENCE},
            neighbours=(("day22", "Embedding and positions"), ("day24", "Transformer block")),
        )
    return to


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing may have been complained about or asked for."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(name: str, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if not request.url.startswith(("file://", "data:"))
                else None
            ),
        )
        page.goto((folder / f"{name}.html").as_uri())
        return page

    yield open_page

    for context in contexts:
        context.close()
    assert complaints == []


def sideways(page: Any) -> int:
    """How many pixels the page can be scrolled to the side."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(visit, name, scheme):
    page = visit(name, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => r.violations)")

    told = [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found
        for node in rule["nodes"][:3]
    ]
    assert told == [], "\n".join(told)


@pytest.mark.parametrize("name", ["index", "day23"])
def test_axe_finds_nothing_on_a_phone(visit, name):
    page = visit(name, 390, has_touch=True)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => r.violations)")

    assert json.dumps([(rule["id"], rule["nodes"][0]["html"][:120]) for rule in found]) == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_no_page_scrolls_sideways(visit, name):
    page = visit(name)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = {}
    for width in (1280, 1000, 860, 720, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        found[width] = max(0, sideways(page))

    assert not any(found.values()), found


def until(page, expression):
    """Wait until an expression holds; the page's policy forbids Playwright's own way of polling."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


@pytest.mark.parametrize("width", [1280, 640])
@pytest.mark.parametrize("name", ["index", "day23", "fault", "more-pictures"])
def test_text_of_twice_the_size_does_not_scroll_sideways(visit, name, width):
    page = visit(name, width)
    page.evaluate(
        "document.documentElement.animate([{fontSize: '32px'}], {duration: 1, fill: 'forwards'})"
    )
    until(page, "getComputedStyle(document.documentElement).fontSize === '32px'")

    assert sideways(page) <= 0


def test_arrow_keys_walk_over_the_roadmap_by_day_and_by_week(visit):
    page = visit("index")
    page.locator("a.day[href='day09.html']").focus()
    walked = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        walked.append(page.evaluate("document.activeElement.getAttribute('href')"))

    assert walked == ["day10.html", "day17.html", "day16.html", "day09.html"]


def test_the_keyboard_reaches_skip_link_days_and_theme(visit):
    page = visit("index")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))

    assert 'class="skip"' in seen[0]
    assert any('data-act="theme"' in element for element in seen)
    assert sum('class="day ' in element for element in seen) == 29


def test_focus_can_be_seen(visit):
    page = visit("index")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outline")

    assert "3px" in outline
    assert "solid" in outline


def test_the_theme_follows_the_system_and_the_button_overrides_it_for_good(visit):
    page = visit("index", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("[data-act=theme]").click()
    after = page.evaluate(ground)
    page.reload()

    assert before == "rgb(20, 19, 16)"
    assert after == page.evaluate(ground) == "rgb(250, 248, 244)"
    assert page.locator("[data-act=theme]").get_attribute("aria-pressed") == "false"


def test_a_link_to_a_check_unfolds_it(visit):
    page = visit("day23")
    page.locator(".bar a[href='#c3-1']").click()

    assert page.locator("#c3-1").get_attribute("open") is not None
    assert page.locator("#c3-1 svg.fig").is_visible()


def test_a_command_is_copied_or_marked_for_copying(visit):
    page = visit("day23")
    page.locator(".next [data-act=copy]").click()
    until(
        page,
        "/Copied|Selected/.test(document.querySelector('.next [data-act=copy]').textContent)",
    )
    marked = page.evaluate("String(getSelection())")

    assert marked in ("", "grade day23 --check 1.1")


def test_a_page_can_be_read_without_its_script(visit):
    page = visit("day23", java_script_enabled=False)

    assert page.get_by_text("which lies in its future").first.is_visible()
    page.locator("#c2-2 summary", has_text="Hint 1 of 2").click()
    assert page.get_by_text("Which entries should be 1?").is_visible()
    assert not page.locator("[data-act]").first.is_visible()


@pytest.mark.parametrize("name", ["index", "day23", "solved"])
def test_a_page_can_be_printed_in_light_colours(visit, name):
    page = visit(name, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    printed = page.pdf(format="A4", print_background=True)
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / f"{name}.pdf").write_bytes(printed)

    assert ground == "rgb(255, 255, 255)"
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") <= 8


def test_the_words_of_a_drawing_lie_inside_the_page(visit):
    for name in ("pictures", "more-pictures", "index"):
        page = visit(name)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            outside = page.evaluate(
                "[...document.querySelectorAll('main svg text')].filter(t => {"
                " const b = t.getBoundingClientRect();"
                " const f = t.ownerSVGElement.getBoundingClientRect();"
                " return b.width && (b.left < f.left - 3 || b.right > f.right + 3) })"
                ".map(t => t.textContent)"
            )

            assert outside == [], (name, width)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_the_pages_are_left_for_review(visit, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    for width, scheme, label in (
        (1280, "light", "light"),
        (1280, "dark", "dark"),
        (390, "light", "phone"),
    ):
        page = visit(name, width, color_scheme=scheme)
        page.screenshot(path=SHOTS / f"{name}-{label}.png", full_page=True)

        assert (SHOTS / f"{name}-{label}.png").stat().st_size > 5_000
