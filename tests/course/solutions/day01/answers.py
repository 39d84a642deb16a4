"""Answers to day 1 of the fixture course."""

from grader.answers import accepted, rejected


@accepted("double")
def by_addition(x):
    return x + x


@rejected("double", by="test_doubles", says="expected 2")
def times_three(x):
    return 3 * x


@rejected("double", by="test_any_length")
def pairs_only(x):
    return x[:2] * 2 if len(x) > 1 else x[:0]


@rejected("triple", by="test_triples", says="NOT THREE")
def minus(reference: str) -> str:
    return reference.replace("double(x) + x", "double(x) - x")
