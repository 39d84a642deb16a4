"""A small English-like text, made from a grammar: subject, verb, object, adverb.

A sentence is one of each, chosen evenly, like `the cat paints a big box at night.` and a newline.
It has 25 different characters (ln 25 = 3.22 nats). In nats per character its entropy is 2.84 if
characters are taken one by one, 1.53 if the character before is known, and 0.19 if all are.
"""

import random

SUBJECTS = ("a child", "the captain", "the old man", "the cat")
VERBS = (
    "likes",
    "sees",
    "hides",
    "washes",
    "finds",
    "opens",
    "carries",
    "brings",
    "paints",
)
OBJECTS = ("the bridge", "a boat", "a red ball", "a big box")
ADVERBS = ("now", "very well", "by the sea", "every day", "again", "at night")

CHARACTERS = "\n .abcdefghiklmnoprstvwxy"  # the id of a character is its place in here
WORDS = frozenset(" ".join(SUBJECTS + VERBS + OBJECTS + ADVERBS).split())


def toytext(n: int, seed: int) -> str:
    """The first n characters of an endless text; each seed has its own."""
    choice = random.Random(seed).choice
    sentences: list[str] = []
    length = 0
    while length < n:
        words = (choice(SUBJECTS), choice(VERBS), choice(OBJECTS), choice(ADVERBS))
        sentences.append(" ".join(words) + ".\n")
        length += len(sentences[-1])
    return "".join(sentences)[:n]


def encode(text: str) -> list[int]:
    """The ids 0 to 24 of the characters of a toytext."""
    return [CHARACTERS.index(character) for character in text]


def decode(ids: list[int]) -> str:
    """The text of ids."""
    return "".join(CHARACTERS[i] for i in ids)
