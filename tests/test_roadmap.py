"""The roadmap says how far a learner has come, from attempts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta, timezone

import pytest

from grader import roadmap
from grader.model import Kind, Status, Verdict
from grader.roadmap import State
from tests import samples

COURSE = tuple(samples.another(f"day{n:02}", week=(n + 6) // 7) for n in range(1, 11))


def summary(exercise="day01", chosen=None, number=1, *, days=0.0, **more):
    attempt = samples.attempt(
        chosen, exercise=exercise, number=number, started=samples.later(days=days), **more
    )
    return attempt.summary


PARTLY = samples.PARTLY


def made(number, minute, *, watched=True, exercise="day23", **more):
    started = samples.later(minutes=minute)
    attempt = samples.attempt(number=number, exercise=exercise, started=started, watched=watched)
    return replace(attempt.summary, **more)


def test_what_watch_made_within_ten_minutes_is_one_fold():
    found = roadmap.folds(
        [
            made(1, 0, watched=False),
            made(2, 1),
            made(3, 10),
            made(4, 19),
            made(5, 31),
            made(6, 32, watched=False),
            made(7, 33),
            made(1, 34, exercise="day24"),
            made(8, 35),
        ]
    )

    assert [fold.numbers for fold in found] == ["1", "2-4", "5", "6", "7", "1", "8"]
    assert found[1].minutes == 19


def test_a_fold_goes_from_its_first_to_its_last_and_knows_its_best():
    (fold,) = roadmap.folds(
        [
            made(1, 0, passed=1, selected=True),
            made(2, 1, passed=5, verdict=Verdict.FAILED),
            made(3, 2, passed=7),
            made(4, 3, passed=6, verdict=Verdict.FAILED),
            made(5, 4, passed=2, selected=True),
        ]
    )

    assert [fold.first.number, fold.best.number, fold.last.number] == [2, 3, 4]


def test_before_the_first_attempt_everything_is_open():
    road = roadmap.of(COURSE, [], samples.NOON)

    assert {State.NOT_STARTED} == {p.state for p in road.progress}
    assert (road.days_done, road.days, road.earned, road.possible) == (0, 10, 0, 1000)
    assert (
        road.streak,
        road.attempts,
        road.median_attempts,
        road.seconds,
        road.curve,
    ) == (0, 0, 0.0, 0.0, ())
    assert (road.next.exercise.id, road.next.check) == ("day01", None)


def test_an_exercise_once_done_stays_done():
    road = roadmap.of(COURSE, [summary(), summary(chosen=PARTLY, number=2)], samples.NOON)
    day = road.of("day01")

    assert State.DONE is day.state
    assert (day.earned, day.possible) == (100, 100)
    assert day.best.number == 1
    assert day.latest.number == 2


def test_all_checks_of_a_selection_do_not_finish_an_exercise():
    part = summary(chosen=(samples.outcome("1.1"),), selected=True)
    day = roadmap.of(COURSE, [part], samples.NOON).of("day01")

    assert State.IN_PROGRESS is day.state
    assert (day.earned, day.possible) == (10, 100)
    assert day.counted == 7


def test_a_selection_changes_what_it_ran_and_nothing_else():
    attempts = [
        summary(chosen=PARTLY),
        summary(chosen=(samples.outcome("1.1"),), number=2, selected=True),
    ]
    statuses = roadmap.of(COURSE, attempts, samples.NOON).of("day01").statuses

    assert Status.PASSED is statuses["TestSplit::test_1_1"]
    assert Status.FAILED is statuses["TestAttend::test_2_2"]


def test_points_that_were_skipped_leave_the_total():
    skipped = samples.outcomes(c4_1=samples.outcome("4.1", Status.SKIPPED))
    day = roadmap.of(COURSE, [summary(chosen=skipped)], samples.NOON).of("day01")

    assert (day.earned, day.possible) == (90, 90)


@pytest.mark.parametrize(
    ("ago", "streak"),
    [
        ([], 0),
        ([0], 1),
        ([1], 1),
        ([0, 1, 2], 3),
        ([0, 2, 3], 3),
        ([0, 2, 4], 2),
        ([0, 3, 4], 1),
        ([2], 1),
        ([3], 0),
        ([0, 1, 3, 4, 5, 6, 7, 8, 10], 9),
        ([0, 1, 3, 4, 5, 6, 7, 8, 9, 11], 10),
        ([0, 1, 3, 4, 5, 6, 7, 9], 7),
    ],
)
def test_a_streak_allows_one_rest_day_in_seven(ago, streak):
    attempts = sorted((summary(days=-days) for days in ago), key=lambda a: a.started)

    assert streak == roadmap.of(COURSE, attempts, samples.NOON).streak


def test_a_day_ends_where_the_learner_is():
    attempts = [summary(days=-0.6)]  # 21:36 UTC on the day before
    tokyo = samples.NOON.astimezone(timezone(timedelta(hours=9)))
    road = roadmap.of(COURSE, attempts, tokyo)

    assert [date(2026, 11, 21)] == [d.day for week in road.activity for d in week if d.attempts]


def test_time_is_the_sum_of_gaps_of_at_most_fifteen_minutes():
    attempts = [
        summary(number=n, days=minutes / 1440) for n, minutes in enumerate((0, 5, 65, 67), start=1)
    ]

    assert roadmap.of(COURSE, attempts, samples.NOON).seconds == 60.0 * (5 + 15 + 2)


def test_the_median_counts_the_attempts_until_the_first_that_passed():
    attempts = [
        summary("day01", PARTLY, 1, days=0.1),
        summary("day01", None, 2, days=0.2),
        summary("day01", PARTLY, 3, days=0.3),
        summary("day02", None, 1, days=0.4),
        summary("day03", PARTLY, 1, days=0.5),
    ]

    assert roadmap.of(COURSE, attempts, samples.later(days=1)).median_attempts == 1.5


def test_the_curve_falls_by_what_passed_and_the_plan_ends_after_28_days():
    attempts = [
        summary("day01", PARTLY, 1, days=0),
        summary("day01", None, 2, days=2),
        summary("day01", PARTLY, 3, days=3),
    ]
    curve = roadmap.of(COURSE, attempts, samples.later(days=3)).curve

    assert len(curve) == 29
    assert [point.left for point in curve[:5]] == [66, 66, 63, 63, None]
    assert (curve[0].plan, curve[14].plan, curve[28].plan) == (70.0, 35.0, 0.0)


def test_the_curve_goes_on_after_the_plan():
    curve = roadmap.of(COURSE, [summary()], samples.later(days=40)).curve

    assert len(curve) == 41
    assert (curve[-1].left, curve[-1].plan) == (63, 0.0)


def test_activity_has_eight_weeks_of_seven_days_in_five_steps():
    attempts = [
        summary(number=n, days=-days)
        for days, count in ((4, 1), (3, 3), (2, 6), (1, 10))
        for n in range(count)
    ]
    weeks = roadmap.of(COURSE, attempts, samples.NOON).activity  # a Saturday

    assert [len(week) for week in weeks] == [7] * 8
    assert [day.step for day in weeks[-1]] == [0, 1, 2, 3, 4, 0, 0]
    assert [day.is_future for day in weeks[-1]] == [False] * 6 + [True]
    assert weeks[0][0].day.weekday() == 0


def test_kinds_count_what_was_tried_and_not_what_waits_or_was_skipped():
    kinds = {
        k.kind: (k.passed, k.tried)
        for k in roadmap.of(COURSE, [summary(chosen=PARTLY)], samples.NOON).kinds
    }

    assert kinds[Kind.SHAPE] == (0, 1)
    assert kinds[Kind.VALUE] == (2, 3)
    assert kinds[Kind.MEMORY] == (0, 0)
    assert Kind.THEORY not in kinds


@pytest.mark.parametrize(
    ("attempts", "exercise", "check"),
    [
        ([summary("day03", PARTLY)], "day03", "1.1"),
        ([summary("day03", PARTLY), summary("day03", days=1)], "day04", None),
        ([summary("day10")], "day01", None),
        ([summary("day02"), summary("day01", days=1)], "day03", None),
    ],
    ids=["the open one", "the one after", "the first left", "the first open after"],
)
def test_the_next_step_is(attempts, exercise, check):
    step = roadmap.of(COURSE, attempts, samples.NOON).next

    assert exercise == step.exercise.id
    assert check == (step.check.number if step.check else None)


def test_when_all_is_done_there_is_no_next_step():
    attempts = [summary(exercise.id) for exercise in COURSE]

    assert roadmap.of(COURSE, attempts, samples.NOON).next is None


def test_day_0_and_tracks_are_no_days():
    course = (
        samples.another("day00", week=None),
        *COURSE,
        samples.another("lecture01", week=None, track="lecture"),
    )
    road = roadmap.of(course, [], samples.NOON)

    assert road.days == 10
    assert list(road.tracks) == ["roadmap", "lecture"]
    assert [len(week) for week in road.weeks.values()] == [7, 3]


def test_a_course_without_weeks_counts_all_its_days():
    course = tuple(replace(exercise, week=None) for exercise in COURSE)

    assert roadmap.of(course, [], samples.NOON).days == 10


def test_attempts_at_an_exercise_that_is_gone_do_no_harm():
    road = roadmap.of(COURSE, [summary("day99")], samples.NOON)

    assert (road.attempts, road.streak) == (1, 1)
