"""The pages: what they say, that nothing breaks out of them, and when they are rewritten.

`GOLD=write pytest tests/test_pages.py` writes the pages of `tests/gold/` anew; read the difference.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grader import pages
from grader.model import Attempt, Fault, Line, Message, Picture, Status, Verdict
from grader.pages import charts, markdown, pictures, text, views, writing
from tests import page_records as records

GOLD = Path(__file__).parent / "gold"
NEIGHBOURS = (("day22", "Embedding and positions"), ("day24", "Transformer block"))


def write_day(to: Path, latest: Attempt | None, **more: object) -> str:
    """The page of day 23 after ``latest``."""
    attempts = records.history(records.course()) if latest else []
    options = {"statement": records.STATEMENT, "hints_seen": {"split_heads": 1}} | more
    pages.write_exercise(
        options.pop("exercise", records.DAY23),
        options.pop("statement"),
        options.pop("attempts", attempts),
        latest,
        options.pop("hints_seen"),
        records.NOW,
        to,
        neighbours=NEIGHBOURS,
        **options,
    )
    return to.read_text(encoding="utf-8")


def write_index(to: Path, started: bool = True) -> str:
    """The dashboard after the attempts of `page_records.history`, or before the first."""
    course = records.course()
    latest = {"day23": records.attempt(records.mixed())} if started else {}
    attempts = records.history(course) if started else []
    pages.write_index(
        "28 days of PyTorch", course, latest, attempts, records.NOW, to, records.WEEKS
    )
    return to.read_text(encoding="utf-8")


def with_outcome(**changes: object) -> Attempt:
    """An attempt whose first check failed with ``changes`` of its outcome."""
    standard = {"message": Message("", "It is not so.")}
    first = records.outcome("1.1", Status.FAILED, **(standard | changes))
    return records.attempt((first, *records.mixed()[1:]))


def visible(page: str) -> str:
    """The words of a page without its markup."""
    body = page[page.index("<main") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Elements(HTMLParser):
    """Every element of a page with its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# what stands on the page of an exercise


def test_the_page_says_what_to_mend_first_and_how_to_run_only_that(tmp_path):
    words = visible(write_day(tmp_path / "day23.html", records.attempt(records.mixed())))

    assert "Fix this first: 1.1, Axes 1 and 2 are swapped" in words
    assert "grade day23 --check 1.1" in words
    assert "One later check waits for it." in words


def test_a_failed_check_is_open_and_a_passed_one_is_folded(tmp_path):
    page = write_day(tmp_path / "day23.html", records.attempt(records.mixed()))

    assert re.search(r'<details class="ck failed no" id="c2-2" open>', page)
    assert re.search(r'<details class="ck passed" id="c3-1">', page)


def test_a_failed_check_shows_sentence_picture_input_lines_hints_and_output_in_this_order(tmp_path):
    page = write_day(tmp_path / "day23.html", records.attempt(records.mixed()))
    check = visible("<main" + page[page.index('id="c2-2"') : page.index('id="c2-3"')])
    parts = [
        "which lies in its future",
        "must be zero",
        "Smallest failing input",
        "expected [[1, 0]",
        "Your code",
        "mask = mask.tril(diagonal=1)",
        "Hint 1 of 2 Print the mask",
        "Printed during this check",
    ]

    places = [check.index(part) for part in parts]
    assert places == sorted(places)


def test_a_waiting_check_names_what_it_waits_for(tmp_path):
    words = visible(write_day(tmp_path / "day23.html", records.attempt(records.mixed())))

    assert "waits for 1.1 and 2.2" in words


def test_a_skipped_check_leaves_the_score_and_says_why(tmp_path):
    page = write_day(tmp_path / "day23.html", records.attempt(records.mixed()))

    assert "no CUDA here; not counted" in visible(page)
    assert '<dd class="num">5 <small>/ 8</small></dd>' in page


def test_the_lines_around_the_learners_own_come_from_the_graded_file(tmp_path):
    page = write_day(tmp_path / "day23.html", records.attempt(records.mixed()))

    assert '<span class="ln">  12</span> d = C // heads' in page
    assert '<span class="ln hot">  13</span> <b>return x.view(B, T, heads, d)</b>' in page


def test_the_hints_of_a_task_stand_under_its_first_failed_check_only(tmp_path):
    failed = tuple(
        records.outcome(number, Status.FAILED, message=Message("", "No."))
        for number in ("1.1", "1.2")
    )
    page = write_day(tmp_path / "day23.html", records.attempt((*failed, *records.mixed()[2:])))

    assert page.count("Swap the two axes after the view") == 1
    assert "The hints of this task are under 1.1." in page


def test_a_hint_that_was_shown_in_the_terminal_is_marked(tmp_path):
    words = visible(write_day(tmp_path / "day23.html", records.attempt(records.mixed())))

    assert "Hint 1 of 3 (seen)" in words
    assert "Hint 2 of 3 (seen)" not in words


def test_a_file_that_does_not_load_shows_the_fault_with_its_lines(tmp_path):
    words = visible(write_day(tmp_path / "day23.html", records.unloadable()))

    assert "self_attention.py does not run yet: SyntaxError on line 13" in words
    assert "12 d = C // heads 13 return x.view(B, T, heads, d ^" in words
    assert "'(' was never closed (opened on line 13)" in words
    assert "Fix this first" not in words


def test_a_fault_without_lines_is_shown_from_the_graded_file(tmp_path):
    fault = Fault("NameError", "name 'tourch' is not defined", records.FILE, 10)
    page = write_day(
        tmp_path / "day23.html", records.attempt((), verdict=Verdict.ERROR, fault=fault)
    )

    assert '<span class="ln hot">  10</span>' in page


def test_a_suite_at_fault_is_not_blamed_on_the_learner(tmp_path):
    broken = records.attempt(
        (), verdict=Verdict.BROKEN, fault=Fault("suite", "ValueError in test_shape")
    )
    words = visible(write_day(tmp_path / "day23.html", broken))

    assert "The checks themselves failed, not your code." in words
    assert "Mend the line" not in words


def test_a_page_before_the_first_attempt_has_the_statement_open_and_all_checks(tmp_path):
    page = write_day(tmp_path / "day23.html", None)
    words = visible(page)

    assert "Not started: 4 tasks, about 90 minutes." in words
    assert "<details open><summary><h2" in page
    assert all(f'id="c{check.number.replace(".", "-")}"' in page for check in records.CHECKS)
    assert "Attempts" not in words


def test_the_reference_stands_beside_the_answer_once_all_checks_pass(tmp_path):
    given_reference = {"self_attention.py": records.REFERENCE.replace("d = C", "each = C")}
    solved = write_day(tmp_path / "a.html", records.solved(), reference=given_reference)
    unsolved = write_day(
        tmp_path / "b.html", records.attempt(records.mixed()), reference=given_reference
    )

    assert '<mark class="theirs">    each = C // heads</mark>' in solved
    assert '<mark class="mine">    d = C // heads</mark>' in solved
    assert "each = C" not in unsolved


def test_an_attempt_at_part_of_the_suite_keeps_what_was_known_of_the_rest(tmp_path):
    part = records.attempt((records.outcome("1.1"),), 6, selected=True, started=records.NOW)
    page = write_day(tmp_path / "day23.html", part)

    assert "The latest attempt ran part of the suite" in page
    # Attempt 4 passed five checks; the first one passes now as well.
    assert '<dd class="num">6 <small>/ 8</small></dd>' in page
    assert 'Fix this first:</b> <a href="#c2-2">' in page


def test_the_rows_of_axes_are_left_out_where_their_picture_is_drawn(tmp_path):
    drawn = write_day(tmp_path / "a.html", records.attempt(records.mixed()))
    plain = write_day(tmp_path / "b.html", with_outcome(details=("expected  2  4", "got  2  *5")))

    assert "*5" not in drawn
    assert "*5" in plain


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_sign_and_a_word(tmp_path, status):
    changed = records.outcome("1.2", status, message=Message("", "Something."))
    others = records.mixed()
    page = write_day(tmp_path / "d.html", records.attempt((others[0], changed, *others[2:])))

    assert f'<symbol id="i-{status}"' in page
    assert f'aria-label="1.2 {views.STATES[status]}"' in page


def test_a_task_that_is_still_to_be_written_says_so_once(tmp_path):
    todo = tuple(records.outcome(n, Status.TODO) for n in ("2.1", "2.2", "2.3"))
    attempt = records.attempt(
        (*records.mixed()[:2], *todo, *records.mixed()[5:]), open_tasks=("attention",)
    )
    words = visible(write_day(tmp_path / "day23.html", attempt))

    assert words.count("still to be written") == 1


def test_every_message_of_an_outcome_without_words_still_says_something(tmp_path):
    for status in (s for s in Status if s.is_mistake):
        page = write_day(tmp_path / "d.html", with_outcome(message=None))

        assert re.search(r'<p class="msg">[^<]+', page), status


# the dashboard


def test_the_dashboard_says_what_to_do_now(tmp_path):
    words = visible(write_index(tmp_path / "index.html"))

    assert "Day 23 of 28 · Week 4 Self-attention (Q, K, V)" in words
    assert "5 of 8 checks pass. 1.1: Axes 1 and 2 are swapped" in words
    assert "Continue day 23" in words


def test_a_new_dashboard_begins_with_the_first_exercise_and_promises_a_curve(tmp_path):
    words = visible(write_index(tmp_path / "index.html", started=False))

    assert "Start day 0" in words
    assert "Your loss curve begins with the first attempt" in words
    assert "Latest attempts" not in words


def test_each_day_of_the_roadmap_is_a_link_whose_name_is_a_sentence(tmp_path):
    page = write_index(tmp_path / "index.html")
    names = re.findall(r'<a class="day [^>]*><span class="vh">([^<]+)</span>', page)

    assert len(names) == 29
    assert (
        "Day 23, Self-attention (Q, K, V): in progress, 5 of 8 checks pass, 1 not run here" in names
    )


def test_what_watch_made_in_a_row_is_one_row_of_the_history(tmp_path):
    latest = records.attempt(records.mixed())
    made = [
        replace(
            latest.summary,
            number=n,
            started=records.NOW + timedelta(minutes=n - 9),
            watched=n > 1,
        )
        for n in range(1, 5)
    ]
    page = visible(write_day(tmp_path / "day23.html", latest, attempts=made))

    assert "2–4" in page
    assert "watch, 3 runs in 3 min" in page


def test_the_weeks_show_only_what_the_course_has(tmp_path):
    course = [e for e in records.course() if e.id in ("day03", "day08", "day23")]
    to = tmp_path / "index.html"
    pages.write_index("A course", course, {}, [], records.NOW, to)
    page = to.read_text(encoding="utf-8")

    assert page.count('class="week"') == 3
    assert "Week 3" not in page
    assert "Extra tracks" not in page


def test_a_course_without_exercises_still_has_a_page(tmp_path):
    to = pages.write_index("A course", [], {}, [], records.NOW, tmp_path / "index.html")

    assert "No exercises yet" in to.read_text(encoding="utf-8")


def test_the_dashboard_counts_what_the_attempts_earned(tmp_path):
    page = write_index(tmp_path / "index.html")

    assert '<dd class="num">20 <small>/ 28</small></dd>' in page
    assert "139 attempts in 8 weeks" in page


def test_many_checks_share_a_bar_of_runs_that_ended_alike(tmp_path):
    many = [e for e in records.course(checks=30) if e.id in ("day01", "day02")]
    attempt = records.history(many, total=8)[0]
    page = pages.write_index(
        "A course", many, {}, [attempt], records.NOW, tmp_path / "index.html"
    ).read_text(encoding="utf-8")
    first = page[page.index('href="day01.html"') :]

    assert re.findall(r'<rect class="(r\w*)" x="(\d+)" width="(\d+)"', first)[:3] == [
        ("rp", "0", "16"),
        ("rf", "16", "2"),
        ("r", "18", "13"),
    ]


def test_a_finished_course_says_so(tmp_path):
    course = [records.DAY23]
    done = records.solved().summary
    page = pages.write_index(
        "A course", course, {}, [done], records.NOW, tmp_path / "index.html"
    ).read_text(encoding="utf-8")

    assert "Everything is done" in page


def test_attempts_at_exercises_that_are_gone_are_listed_without_a_link(tmp_path):
    gone = replace(records.solved().summary, exercise="day99")
    page = pages.write_index(
        "A course", [records.DAY23], {}, [gone], records.NOW, tmp_path / "index.html"
    ).read_text(encoding="utf-8")

    assert "day99.html" not in page


# nothing breaks out

HOSTILE = (
    "<script>alert(1)</script></pre></style>]]><img src=x onerror=alert(2)>\" onfocus='x' "
    "{{ 7 * 7 }} {% raw %} &lt; \x00\x01\x1b[31mred\x1b[0m\x1b]8;;http://x\x07 \u202egnp.exe\u2066 "
    "\ud800 \udfff \ufffe \u2028 \x85 \x7f \u200b"
)


def hostile_page(to: Path) -> str:
    line = Line(HOSTILE, 3, HOSTILE, HOSTILE)
    changes = {
        "message": Message(HOSTILE, HOSTILE + "`" + HOSTILE + "`"),
        "details": (HOSTILE,),
        "expected": HOSTILE,
        "got": {HOSTILE: [HOSTILE]},
        "minimal": HOSTILE,
        "lines": (line,),
        "output": HOSTILE,
        "traceback": HOSTILE,
        "measured": HOSTILE,
        "pictures": (
            Picture(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}),
            Picture(
                "bars",
                HOSTILE,
                HOSTILE,
                {
                    "labels": [HOSTILE],
                    "series": [{"label": HOSTILE, "values": [1]}],
                    "unit": HOSTILE,
                },
            ),
            Picture(
                "graph",
                HOSTILE,
                HOSTILE,
                {"nodes": [{"id": HOSTILE, "label": HOSTILE, "note": HOSTILE}], "edges": []},
            ),
            Picture("text", HOSTILE, HOSTILE, {"panels": [{"label": HOSTILE, "lines": [HOSTILE]}]}),
        ),
    }
    attempt = with_outcome(**changes)
    exercise = replace(records.DAY23, title=HOSTILE, title_zh=HOSTILE, goal=HOSTILE)
    environment = replace(attempt.environment, torch=HOSTILE, python=HOSTILE)
    attempt = replace(attempt, environment=environment, files={"self_attention.py": HOSTILE})
    return write_day(to, attempt, exercise=exercise, statement=HOSTILE + "\n\n# " + HOSTILE)


def test_hostile_text_adds_no_element_and_no_attribute(tmp_path):
    page = hostile_page(tmp_path / "day23.html")
    found = Elements(page).found

    assert [tag for tag, _ in found if tag in ("script", "style", "img", "iframe", "object")] == [
        "style",
        "script",
    ]
    assert not [name for _, attrs in found for name in attrs if name.startswith("on")]
    assert not [attrs for _, attrs in found if "style" in attrs]


def test_what_a_reader_cannot_see_is_written_out(tmp_path):
    page = hostile_page(tmp_path / "day23.html")

    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e\u2066-\u2069\ufffe]", page
    )
    assert r"\u202egnp.exe\u2066" in page
    assert r"\x00\x01red" in page
    assert r"\ud800" in page


def test_ten_megabytes_of_output_are_cut_and_counted(tmp_path):
    page = write_day(tmp_path / "day23.html", with_outcome(output="spam and eggs\n" * 750_000))

    assert len(page) < 200_000
    assert "10,500,000 characters in all." in page


def test_one_long_line_is_cut_everywhere(tmp_path):
    long = "x" * 3_000_000
    attempt = with_outcome(
        message=Message("", long),
        details=(long,),
        expected=long,
        got=[long],
        minimal=long,
        traceback=long,
        lines=(Line(records.FILE, 1, long),),
    )
    attempt = replace(attempt, files={"self_attention.py": long})

    assert len(write_day(tmp_path / "day23.html", attempt)) < 250_000


def test_progress_bars_keep_their_last_state():
    assert text.clean("epoch 1\r\n 10%\r 50%\r100%\nend\r") == "epoch 1\n100%\nend"


def test_the_policy_names_the_hashes_of_the_one_style_and_the_one_script(tmp_path):
    page = write_index(tmp_path / "index.html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    allowed = html.unescape(policy[1])

    assert allowed.startswith("default-src 'none';")
    assert "unsafe" not in allowed
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed


@pytest.mark.parametrize("which", ["index", "day"])
def test_no_page_asks_for_another_file_and_links_lead_to_pages_beside_it(tmp_path, which):
    to = tmp_path / "page.html"
    page = write_index(to) if which == "index" else write_day(to, records.solved())
    found = Elements(page).found
    links = {attrs.get("href") or "" for tag, attrs in found if tag == "a"}
    links.discard("https://arxiv.org/abs/1706.03762")

    assert not [a for tag, a in found if "src" in a or "srcset" in a or "action" in a]
    assert not [
        a for tag, a in found if tag == "link" and not (a["href"] or "").startswith("data:")
    ]
    assert all(re.fullmatch(r"#[\w-]+|[a-z]+\d*\.html", link) for link in links), links
    assert "url(" not in page.replace("url(#hatch)", "")


def test_ids_are_unique_and_fragments_lead_somewhere(tmp_path):
    page = write_day(tmp_path / "d.html", with_outcome(pictures=records.ALL_PICTURES[:6]))
    found = Elements(page).found
    ids = [attrs["id"] for _, attrs in found if "id" in attrs]
    fragments = {(a.get("href") or "")[1:] for _, a in found if (a.get("href") or "")[:1] == "#"}

    assert len(ids) == len(set(ids))
    assert fragments <= set(ids)


@pytest.mark.parametrize("which", ["index", "mixed", "solved", "fault", "new"])
def test_headings_skip_no_level_and_there_is_one_of_the_first(tmp_path, which):
    levels = [int(tag[1]) for tag, _ in Elements(PAGES[which](tmp_path / "p.html")).found
              if re.fullmatch("h[1-6]", tag)]  # fmt: skip

    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_chinese_title_carries_its_language(tmp_path):
    page = write_day(tmp_path / "d.html", None)

    assert '<p class="zh" lang="zh-CN">Self-Attention 实现 (Q, K, V)</p>' in page


# the statement


def test_a_statement_begins_below_the_second_level_and_drops_its_title():
    made = markdown.html("# Day 23: Rotary\n\n## 1. One\n\n#### Deep\n\n## 2. Two", "Rotary")

    assert re.findall(r"<h(\d)>", made) == ["3", "4", "3"]
    assert "Rotary" not in made


def test_a_statement_has_no_markup_of_its_own():
    made = markdown.html("<b onclick=x>a</b> [l](javascript:x) [f](../x.py) ![i](y.png)")

    assert "<b" not in made
    assert "<img" not in made
    assert "href" not in made
    assert "<a" not in made


def test_code_and_tables_of_a_statement_can_be_scrolled_by_keyboard():
    made = markdown.html("```python\na < b\n```\n\n| a |\n| - |\n| b |\n")

    assert '<pre tabindex="0"><code>a &lt; b</code></pre>' in made
    assert '<div class="scroll" tabindex="0"' in made


# pictures


@pytest.mark.parametrize("picture", records.ALL_PICTURES, ids=lambda p: p.kind)
def test_every_kind_of_picture_has_a_title_and_a_sentence(picture):
    figure = pictures.figure(picture)

    assert not figure.absent
    assert figure.drawings or figure.panels
    for drawing in figure.drawings:
        assert drawing.title
        assert len(drawing.sentence) > 10


@pytest.mark.parametrize("picture", records.ALL_PICTURES, ids=lambda p: p.kind)
def test_the_shapes_of_a_picture_lie_inside_it(picture):
    for drawing in pictures.figure(picture).drawings:
        for shape in drawing.shapes:
            for x, y in points_of(shape):
                assert -1 <= x <= drawing.width + 1, shape
                assert -1 <= y <= drawing.height + 1, shape


def points_of(shape: charts.Shape) -> Iterator[tuple[float, float]]:
    if isinstance(shape, charts.Rect):
        yield shape.x, shape.y
        yield shape.x + shape.width, shape.y + shape.height
    elif isinstance(shape, charts.Dot | charts.Label):
        yield shape.x, shape.y
    else:
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", shape.d):
            yield float(x), float(y)


def test_a_swap_of_axes_crosses_and_the_other_axes_stay_straight():
    [drawing] = pictures.figure(records.AXES).drawings
    wires = [s.look for s in drawing.shapes if isinstance(s, charts.Path)]
    wrong = [
        s.text for s in drawing.shapes if isinstance(s, charts.Label) and "no" in s.look.split()
    ]

    assert sorted(wires) == ["wire", "wire", "wire no", "wire no"]
    assert wrong == ["5", "4"]


def test_a_lost_axis_leaves_a_dashed_box():
    data = {"expected": {"names": ["a", "b"], "sizes": [2, 1]}, "got": {"sizes": [2]}}
    [drawing] = pictures.figure(Picture("axes", "t", "c", data)).drawings

    assert [s.look for s in drawing.shapes if isinstance(s, charts.Rect)] == [
        "box",
        "box lost",
        "box",
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "nan", "-inf", "word", 10**400, [1], {}])
def test_what_is_no_number_is_hatched(bad):
    maps = Picture("heatmap", "t", "c", {"maps": [{"label": "m", "values": [[1.0, bad]]}]})
    bars = Picture("bars", "t", "c", {"labels": ["a", "b"], "series": [{"values": [1.0, bad]}]})
    for picture in (maps, bars):
        [drawing] = pictures.figure(picture).drawings
        looks = [s.look for s in drawing.shapes if isinstance(s, charts.Rect)]

        assert looks.count("absent") == 1


def test_a_zero_on_a_logarithmic_scale_is_a_hatched_stub():
    data = {"labels": ["a", "b"], "series": [{"label": "n", "values": [0.5, 0.0]}], "log": True}
    [drawing] = pictures.figure(Picture("bars", "t", "c", data)).drawings

    assert [s.look for s in drawing.shapes if isinstance(s, charts.Rect)] == ["bar s0", "absent"]


def test_bars_of_two_series_have_room_for_their_words():
    data = {
        "labels": ["a"],
        "series": [{"label": n, "values": [24187.0]} for n in ("self", "total")],
        "unit": "microseconds",
    }
    drawing = pictures.figure(Picture("bars", "t", "c", data)).drawings[0]
    labels = [s for s in drawing.shapes if getattr(s, "text", "").startswith("24,187")]

    assert [label.x + 10.3 * len(label.text) <= 540 for label in labels] == [True, True]
    assert abs(labels[0].y - labels[1].y) >= 17


def test_the_name_of_an_axis_stands_between_its_ticks():
    data = {"series": [{"label": "a", "x": [0, 20], "y": [0, 1]}], "x_label": "iteration"}
    drawing = pictures.figure(Picture("curve", "t", "c", data)).drawings[0]
    words = {s.text: s.x for s in drawing.shapes if hasattr(s, "text")}

    assert all(abs(words["iteration"] - words[tick]) > 45 for tick in ("0", "5", "10", "15", "20"))


def test_what_was_expected_stands_there_as_python_writes_it(tmp_path):
    page = write_day(tmp_path / "p.html", with_outcome(expected=[True, None, "a"], got=[False]))

    assert "[True, None, &#39;a&#39;]" in page
    assert "[False]" in page


def test_of_a_class_its_methods_are_shown_where_nothing_says_which(tmp_path):
    file = "exercises/day23/self_attention.py"
    heads = ((9, "    def append(self):"), (30, "    def reorder(self):"), (3, "class KVCache:"))
    lines = tuple(Line(file, number, text) for number, text in heads)
    page = visible(write_day(tmp_path / "p.html", with_outcome(lines=lines)))
    places = [page.index(text.strip()) for _, text in (heads[2], *heads[:2])]

    assert places == sorted(places)


def test_a_curve_is_broken_where_it_has_no_value():
    data = {"series": [{"label": "loss", "y": [3.0, 2.0, math.nan, 1.0, 0.5]}]}
    [drawing] = pictures.figure(Picture("curve", "t", "c", data)).drawings

    assert sum(isinstance(s, charts.Path) and "trace" in s.look for s in drawing.shapes) == 2


def test_a_band_lies_between_its_low_and_high_and_levels_have_their_words():
    [drawing] = pictures.figure(records.BESIDE).drawings
    [band] = [s for s in drawing.shapes if isinstance(s, charts.Path) and "band" in s.look]
    words = [s.text for s in drawing.shapes if isinstance(s, charts.Label)]

    assert band.look == "band s1"
    assert band.d.count("L") == 7  # four points there, four back
    assert {"pairs", "knows nothing"} <= set(words)
    assert "pairs is at 1.53" in drawing.sentence


def test_the_first_series_of_a_curve_lies_on_top():
    [drawing] = pictures.figure(records.CURVE).drawings
    traces = [s.look for s in drawing.shapes if isinstance(s, charts.Path) and "trace" in s.look]

    assert traces == ["trace s2", "trace s1", "trace s0"]


def test_a_map_of_signs_names_every_row_and_column_and_is_as_wide_as_the_page():
    figure = pictures.figure(records.SIGNS)
    [drawing] = figure.drawings
    words = [s.text for s in drawing.shapes if isinstance(s, charts.Label)]

    assert words == [*"the␣cat␣sees␣a␣boat␣now.", "1", "60", "240"]
    assert figure.is_wide
    assert figure.tables[0].columns == ("", *"the␣cat␣sees␣a␣boat␣now.")
    assert "framed: row 240 column s" in drawing.sentence


def test_a_peak_that_is_asked_for_is_passed_by_some_values():
    [key] = pictures.figure(records.SIGNS).keys

    assert key.high == "3.22 and more"


def test_at_most_24_by_24_cells_of_a_map_are_drawn():
    data = {"maps": [{"label": "m", "values": [[1.0] * 500] * 500}]}
    figure = pictures.figure(Picture("heatmap", "t", "c", data))
    drawn = "".join(s.d for s in figure.drawings[0].shapes if isinstance(s, charts.Path))

    assert drawn.count("z") == 24 * 24


@pytest.mark.parametrize("kind", [p.kind for p in records.ALL_PICTURES])
@pytest.mark.parametrize("data", [{}, {"maps": 3, "series": None, "groups": [], "panels": [7]}])
def test_data_without_its_parts_becomes_a_sentence(kind, data):
    figure = pictures.figure(Picture(kind, "t", "c", data))

    assert figure.absent.startswith("This picture could not be drawn: ")


def test_an_unknown_kind_becomes_a_sentence():
    assert (
        pictures.figure(Picture("pie", "t", "c", {})).absent == "No picture of kind “pie” is known."
    )


KEYS = sorted(
    {key for p in records.ALL_PICTURES for key in p.data}
    | {"names", "sizes", "label", "values", "marked", "scale", "id", "note", "from", "to", "lines"}
    | {"low", "high", "y"}
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.integers(min_value=-(10**200), max_value=10**200)
    | st.sampled_from(["", "nan", "inf", "diverging", "a", "<b>", "\ud800", "x" * 99])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)


def shaped(whole: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """Data with the parts of ``whole``, some of which are replaced by anything."""

    def spoil(value: object) -> st.SearchStrategy[object]:
        if isinstance(value, dict):
            kept = st.fixed_dictionaries({key: spoil(item) for key, item in value.items()})
            return st.one_of(kept, kept, kept, ANYTHING)
        if isinstance(value, list):
            kept = st.tuples(*(spoil(item) for item in value[:4])).map(list)
            return st.one_of(kept, kept, kept, ANYTHING)
        return st.one_of(st.just(value), LEAVES)

    return spoil(whole).map(lambda d: d if isinstance(d, dict) else {"maps": d, "rows": d})


@pytest.mark.parametrize("picture", records.ALL_PICTURES, ids=lambda p: p.title)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_no_data_breaks_a_picture(picture, data):
    drawn = data.draw(shaped(picture.data))
    figure = pictures.figure(Picture(picture.kind, "title", "caption", drawn))

    assert bool(figure.absent) != bool(figure.drawings or figure.panels)
    for drawing in figure.drawings:
        assert math.isfinite(drawing.width)
        assert math.isfinite(drawing.height)
        assert drawing.height < 5000
        for shape in drawing.shapes:
            assert all(math.isfinite(v) for point in points_of(shape) for v in point), shape
            if isinstance(shape, charts.Path):
                assert "nan" not in shape.d
                assert "inf" not in shape.d


# scales and ticks


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 230, 3, (0, 100, 200, 300)),
        (0, 6, 4, (0, 2, 4, 6)),
        (0, 1, 4, (0, 0.25, 0.5, 0.75, 1)),
        (-0.3, 0.3, 3, (-0.4, -0.2, 0, 0.2, 0.4)),
        (5, 5, 2, (2.5, 5, 7.5)),
        (0, 0, 2, (0, 0.5, 1)),
        (math.nan, 1, 3, (0, 1)),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low, high, count, ticks):
    assert charts.nice_ticks(low, high, count) == pytest.approx(ticks)


@given(
    st.floats(-1e140, 1e140), st.floats(0, 1e140), st.integers(1, 8)
)  # fmt: skip
@settings(derandomize=True)
def test_ticks_of_any_range_enclose_it_and_are_few(low, span, count):
    ticks = charts.nice_ticks(low, low + span, count)

    slack = 1e-5 * (ticks[1] - ticks[0])
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert len(ticks) <= 2 * count + 3


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.02, 8, (0.01, 0.1, 1, 10)),
        (1, 1, (0.1, 1)),
        (1e-9, 1, (1e-9, 1e-6, 1e-3, 1)),
        (0, 1, (0.1, 1)),
    ],
)
def test_logarithmic_ticks_are_powers_of_ten(low, high, ticks):
    assert charts.log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (0.031, "0.031"), (1.3725, "1.37"), (2e-7, "2e-7"), (1.5e9, "1.5e9"),
     (12345.0, "12,345"), (-0.25, "-0.25"), (math.nan, "nan"), (-math.inf, "-inf")],
)  # fmt: skip
def test_figures_are_short(value, shown):
    assert text.figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.004, "4 ms"), (0.8, "0.8 s"), (2.44, "2.4 s"), (65, "1 min 5 s"), (112_800, "31 h 20 min")],
)
def test_durations_are_short(value, shown):
    assert text.seconds(value) == shown


# files


PAGES = {
    "index": write_index,
    "index-new": lambda to: write_index(to, started=False),
    "mixed": lambda to: write_day(to, records.attempt(records.mixed())),
    "pictures": lambda to: write_day(to, with_outcome(pictures=records.ALL_PICTURES[:6])),
    "more-pictures": lambda to: write_day(to, with_outcome(pictures=records.ALL_PICTURES[6:])),
    "solved": lambda to: write_day(
        to, records.solved(), reference={"self_attention.py": records.REFERENCE}
    ),
    "fault": lambda to: write_day(to, records.unloadable()),
    "new": lambda to: write_day(to, None),
}


@pytest.mark.parametrize("which", ["index", "mixed", "solved", "fault", "new", "more-pictures"])
def test_a_page_is_as_it_was_reviewed(tmp_path, which):
    page = PAGES[which](tmp_path / "page.html")
    # The style and the script have files of their own, and their hashes follow from them.
    page = re.sub(r"<(style|script)>.*?</\1>", r"<\1></\1>", page, flags=re.DOTALL)
    page = re.sub(r"sha256-[\w+/&;=#]+", "sha256-", page)
    gold = GOLD / f"page-{which}.html"
    if os.environ.get("GOLD") == "write":
        gold.parent.mkdir(exist_ok=True)
        gold.write_text(page, encoding="utf-8")

    assert page == gold.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes(tmp_path):
    assert write_index(tmp_path / "a.html") == write_index(tmp_path / "b.html")


def test_the_page_of_an_exercise_does_not_depend_on_when_it_is_written(tmp_path):
    attempt = records.attempt(records.mixed())
    written = [
        pages.write_exercise(
            records.DAY23, "", [attempt.summary], attempt, {}, now, tmp_path / f"{i}.html"
        ).read_bytes()
        for i, now in enumerate((records.NOW, records.NOW.replace(hour=23)))
    ]

    assert written[0] == written[1]


def test_a_page_that_says_nothing_new_is_not_written(tmp_path):
    to = tmp_path / "reports" / "day23.html"
    write_day(to, records.attempt(records.mixed()))
    os.utime(to, (1, 1))
    write_day(to, records.attempt(records.mixed()))
    unchanged = to.stat().st_mtime
    write_day(to, records.solved())

    assert unchanged == 1
    assert to.stat().st_mtime > 1
    assert [path.name for path in to.parent.iterdir()] == ["day23.html"]


def test_a_page_that_cannot_be_replaced_leaves_no_half_behind(tmp_path):
    blocked = tmp_path / "day23.html"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"day23\.html"):
        write_day(blocked, None)

    assert [path.name for path in tmp_path.iterdir()] == ["day23.html"]


def test_the_pages_are_not_imported_before_they_are_written():
    heavy = "jinja2", "markdown_it", "torch", "statistics"
    script = f"import sys, grader.pages; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout.strip() == "[]"


def test_writing_never_imports_torch(tmp_path):
    root = Path(__file__).parent.parent
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from pathlib import Path\n"
        "from tests import page_records as r; from grader import pages\n"
        f"to = Path({str(tmp_path)!r}) / 'day23.html'\n"
        "pages.write_exercise(r.DAY23, r.STATEMENT, [], None, {}, r.NOW, to)\n"
        "print('torch' in sys.modules, 'pytest' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout.strip() == "False False"


@pytest.mark.parametrize("which", sorted(PAGES))
def test_a_page_stays_below_its_budget(tmp_path, which):
    assert len(PAGES[which](tmp_path / "page.html").encode()) < 150_000


# colours


def tokens() -> dict[str, tuple[str, str]]:
    """The colours of the style sheet: name to light and dark value."""
    style = (writing.templates_folder() / "style.css").read_text(encoding="utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


GROUNDS = ("bg", "surface", "sunken")
PAIRS = [
    *((name, ground, 4.5) for name in ("ink", "ink-2", "ink-3", "accent", "pass", "fail", "warn")
      for ground in GROUNDS),
    *((f"{name}-fill", ground, 3.0) for name in ("pass", "fail", "warn") for ground in GROUNDS),
    *(("line-strong", ground, 3.0) for ground in ("bg", "surface")),
    *((name, f"{ground}-soft", 4.5) for ground in ("fail", "pass", "warn", "accent")
      for name in ("ink", "ink-2")),
    *((name, f"{name}-soft", 4.5) for name in ("fail", "pass", "warn")),
    ("on-accent", "accent", 4.5),
    *((f"on-{step}", step, 4.5) for step in ("h0", "h1", "h2", "h3", "h4", "p1", "p2", "p3", "p4")),
    *((f"s{k}", "bg", 3.0) for k in range(1, 5)),
]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "ground", "least"), PAIRS)
def test_colours_have_enough_contrast(front, ground, least, theme):
    colours = {name: pair[theme == "dark"] for name, pair in tokens().items()}

    assert contrast(colours[front], colours[ground]) >= least


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_neighbouring_steps_of_colour_differ(theme):
    colours = {name: pair[theme == "dark"] for name, pair in tokens().items()}
    for row in (("h0", "h1", "h2", "h3", "h4"), ("h0", "p1", "p2", "p3", "p4")):
        shades = [luminance(colours[name]) for name in row]

        assert shades in (sorted(shades), sorted(shades, reverse=True))


def test_every_look_of_a_shape_is_in_the_style_sheet():
    style = (writing.templates_folder() / "style.css").read_text(encoding="utf-8")
    known = set(re.findall(r"\.([a-z][\w-]*)", style))
    looks = {
        word
        for picture in records.ALL_PICTURES
        for drawing in pictures.figure(picture).drawings
        for shape in drawing.shapes
        for word in shape.look.split()
    }

    assert looks - known <= {"s0"}


def test_the_fixture_is_plain_json_where_a_report_would_be():
    for picture in records.ALL_PICTURES:
        assert json.loads(json.dumps(picture.data)) == picture.data
