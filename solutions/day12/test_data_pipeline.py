"""Day 12 asks for data sets, splits, batches, streams, and a loader that resumes."""

import contextlib
import functools
import itertools
import json
import math
import operator
import os
import pickle
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data._utils import worker as workers_module

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_raises,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    picture,
    rand_ints,
    smallest,
)

# --- what several tasks need --------------------------------------------------------------------


def global_state() -> dict[str, Any]:
    """The state of the three global generators."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "NumPy": (kind, keys.tolist(), *rest),
    }


def run_isolated(fn: Callable[[], Any], what: str, also: str = "") -> Any:
    """Call `fn` from two states of the global generators: it changes none, and its result is the
    same."""
    results = []
    for seed in (3, 5):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        before = global_state()
        results.append(fn())
        for name, state in global_state().items():
            expect(
                state == before[name],
                f"{what} changes the global state of {name}: whoever draws after it draws other "
                f"numbers. Use a generator of your own, made from the seed{also}",
            )
    expect(
        results[0] == results[1],
        f"{what} depends on the state of a global generator: with the same seed, but another "
        "global state, the result is another one",
    )
    return results[0]


def loaded(make: Callable[[], DataLoader]) -> list[Any]:
    """Everything that a DataLoader with workers gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer cores than workers
        return list(make())


def head(values: list[Any]) -> Any:
    """The first of them, None if there is none."""
    return values[0] if values else None


def flat(parts: Iterable[list[Any]]) -> list[Any]:
    """All lists as one."""
    return [value for part in parts for value in part]


def forked(count: int) -> dict[str, Any]:
    """The arguments of a DataLoader for real workers, where there is fork."""
    if not hasattr(os, "fork"):
        return {"num_workers": 0}
    return {"num_workers": count, "multiprocessing_context": "fork"}


def round_trip(value: Any, what: str, why: str) -> Any:
    """The value as pickle brings it back."""
    try:
        return pickle.loads(pickle.dumps(value))
    except Exception as error:
        fail(
            f"{what} can't be pickled ({type(error).__name__}), so it can't be sent to workers: "
            f"{why}",
            details=(str(error)[:200],),
        )


# --- 1 ------------------------------------------------------------------------------------------

FEATURES = ("width", "age", "fare")


def table(path: Path, rows: int, holes: Iterable[tuple[int, str]] = ()) -> tuple[Tensor, list[int]]:
    """Write a CSV whose target, "kind", stands between the features; the holes are empty cells.

    Returns:
        features (rows, 3) float64, nan in the holes, and the labels.
    """
    columns = ("width", "age", "kind", "fare")
    values = (
        torch.randn(rows, 3, dtype=torch.float64) * 3 + torch.tensor([5.0, -20.0, 100.0])
    ).round(decimals=3)
    labels = rand_ints(rows, high=7).tolist()
    for row, name in holes:
        values[row, FEATURES.index(name)] = math.nan
    lines = [",".join(columns)]
    for row in range(rows):
        cells = {
            name: "" if math.isnan(value) else repr(value)
            for name, value in zip(FEATURES, values[row].tolist(), strict=True)
        }
        cells["kind"] = str(labels[row])
        lines.append(",".join(cells[name] for name in columns))
    path.write_text("\n".join(lines) + "\n")
    return values, labels


def item(dataset: Any, index: int) -> tuple[Tensor, Tensor]:
    """One item of the data set: features and label, both tensors."""
    found = dataset[index]
    expect(
        isinstance(found, tuple | list) and len(found) == 2,
        f"dataset[{index}] is of type {type(found).__name__}; expected (features, label)",
    )
    return assert_tensor(found[0], "the features"), assert_tensor(found[1], "the label")


@pytest.mark.task("TableDataset")
class TestTableDataset:
    @pytest.mark.points(2, "value")
    def test_features(self, submission, tmp_path):
        """Features are the other columns, in file order, unscaled."""
        for rows in (2, 5):
            path = tmp_path / f"{rows}.csv"
            values, _ = table(path, rows)
            dataset = submission.TableDataset(path=path, target="kind")
            assert_equal(len(dataset), rows, what="len of the data set")
            explain = {
                # As float32 computes it: what two close values differ by has few digits.
                "the features are scaled; asked for are the numbers of the file": (
                    (values.float() - values.float().mean(0)) / values.float().std(0)
                ),
                "the features are in alphabetical order; asked for is that of the file": values[
                    :, [1, 2, 0]
                ].float(),
            }
            for row in range(rows):
                features, _ = item(dataset, row)
                expect(
                    features.shape != (4,),
                    f"there are 4 features for 3 columns: the target is one of them, so {row} "
                    "carries its answer with it",
                )
                assert_shape(features, feat=3)
                assert_dtype(features, torch.float32, "the feature tensor")
                assert_close(
                    features,
                    values[row].float(),
                    what=f"the features of row {row}",
                    explain={text: wrong[row] for text, wrong in explain.items()},
                )

    @pytest.mark.points(1, "shape")
    def test_label(self, submission, tmp_path):
        """The label is a 0-dim int64 tensor."""
        _, labels = table(tmp_path / "a.csv", 5)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind")
        for row in range(5):
            _, label = item(dataset, row)
            expect(
                label.shape == (),
                f"the label has shape {tuple(label.shape)}, expected (): a batch of them would be "
                "(batch, 1), and against (batch,) that broadcasts",
                got=list(label.shape),
                expected=[],
            )
            assert_dtype(label, torch.int64, "the label")
            assert_equal(int(label), labels[row], what=f"the label of row {row}")

    @pytest.mark.points(1, "value")
    def test_negative_index(self, submission, tmp_path):
        """Negative indices count from the end."""
        values, labels = table(tmp_path / "a.csv", 5)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind")
        for index in (-1, -2, -5):
            try:
                features, label = item(dataset, index)
            except IndexError:
                fail(f"dataset[{index}] of 5 rows raises IndexError; it is row {5 + index}")
            assert_close(features, values[index].float(), what=f"the features of dataset[{index}]")
            assert_equal(int(label), labels[index], what=f"the label of dataset[{index}]")

    @pytest.mark.points(1, "structure")
    def test_the_end(self, submission, tmp_path):
        """An index outside raises IndexError, so that iteration ends."""
        table(tmp_path / "a.csv", 3)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind")
        seen = sum(1 for _ in itertools.islice(iter(dataset), 7))
        expect(
            seen == 3,
            f"`for item in dataset` goes on after the last of 3 rows: it gave {seen} items and "
            "wasn't at its end. It ends at the first IndexError",
            got=seen,
            expected=3,
        )
        for index in (3, 11, -4):
            assert_raises(IndexError, operator.getitem, dataset, index)

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("A validation set is filled with the means of the training set.")
    def test_given_stats(self, submission, tmp_path):
        """A missing cell becomes the mean in the given stats."""
        values, _ = table(tmp_path / "a.csv", 5, [(1, "age"), (3, "age"), (3, "fare")])
        stats = {"fare": 71.0, "width": 2.0, "age": -33.0}
        given = dict(stats)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind", stats=given)
        expect(given == stats, f"the dict of stats that was given has been changed: {given}")
        own = values.nanmean(0)
        for row in range(5):
            features, _ = item(dataset, row)
            expected, leaked = values[row].clone(), values[row].clone()
            for place, name in enumerate(FEATURES):
                if math.isnan(values[row, place]):
                    expected[place], leaked[place] = stats[name], own[place]
            explain = {}
            if not torch.equal(expected, leaked):
                explain = {
                    "a missing cell holds this file's own mean, although stats were given: with a "
                    "validation file, that is a statistic of the validation set": leaked.float(),
                    "a missing cell is 0; expected the column's mean": values[row]
                    .nan_to_num(0)
                    .float(),
                }
            assert_close(
                features, expected.float(), what=f"the features of row {row}", explain=explain
            )
        for name in FEATURES:
            expect(
                dataset.stats.get(name) == stats[name],
                f"dataset.stats[{name!r}] isn't the mean that was given and used",
                got=dataset.stats.get(name),
                expected=stats[name],
            )

    @pytest.mark.points(1, "value")
    def test_own_stats(self, submission, tmp_path):
        """Without stats, the means are those of the present cells."""
        for rows, holes in ((3, [(0, "fare")]), (7, [(1, "age"), (3, "age"), (6, "width")])):
            values, _ = table(tmp_path / f"{rows}.csv", rows, holes)
            dataset = submission.TableDataset(tmp_path / f"{rows}.csv", "kind")
            means = values.nanmean(0)
            zeros = values.nan_to_num(0).mean(0)
            for place, name in enumerate(FEATURES):
                found = dataset.stats.get(name)
                expect(
                    isinstance(found, float),
                    f"dataset.stats[{name!r}] is of type {type(found).__name__}; expected a "
                    "Python float",
                )
                explain = {}
                if zeros[place] != means[place]:
                    explain = {
                        f"the mean of {name} counts the missing cells as zeros; average the "
                        "present ones": zeros[place].item()
                    }
                assert_close(
                    float(found),
                    means[place].item(),
                    rtol=1e-4,
                    what=f"dataset.stats[{name!r}]",
                    explain=explain,
                )
            for row, name in holes:
                features, _ = item(dataset, row)
                assert_close(
                    features[FEATURES.index(name)].item(),
                    means[FEATURES.index(name)].item(),
                    rtol=1e-4,
                    what=f"the missing {name} of row {row}",
                )

    @pytest.mark.points(1, "structure")
    def test_subset(self, submission, tmp_path):
        """A Subset picks rows, in any order and again."""
        _, labels = table(tmp_path / "a.csv", 7)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind")
        rows = [5, 2, 2, 0, 6]
        subset = Subset(dataset, rows)
        found = [int(item(subset, place)[1]) for place in range(5)]
        assert_equal(
            found, [labels[row] for row in rows], what=f"of a Subset of the rows {rows}, labels"
        )

    @pytest.mark.points(1, "structure")
    def test_pickle(self, submission, tmp_path):
        """The data set can be pickled."""
        values, labels = table(tmp_path / "a.csv", 5)
        dataset = submission.TableDataset(tmp_path / "a.csv", "kind")
        other = round_trip(
            dataset,
            "the data set",
            "an open file, a csv reader, a generator or a lambda can't be kept as an attribute",
        )
        features, label = item(other, 3)
        assert_close(features, values[3].float(), what="the features after pickle")
        assert_equal(int(label), labels[3], what="the label after pickle")


# --- 2 ------------------------------------------------------------------------------------------


def labels_of(counts: dict[int, int]) -> Tensor:
    """So many labels of each class, in random order."""
    labels = torch.tensor([label for label, count in counts.items() for _ in range(count)])
    return labels[torch.randperm(len(labels))]


def split_of(submission: Any, *args: Any) -> tuple[list[int], list[int]]:
    """Train and val as lists."""
    found = submission.stratified_split(*args)
    expect(
        isinstance(found, tuple | list) and len(found) == 2,
        f"expected two tensors, train and val; got a {type(found).__name__}",
    )
    train, val = (
        assert_tensor(part, name).tolist()
        for part, name in zip(found, ("train", "val"), strict=True)
    )
    return train, val


def some_groups(sizes: Iterable[int]) -> Tensor:
    """Group numbers that aren't 0 to n - 1, in random order."""
    return labels_of({7 * place - 20: size for place, size in enumerate(sizes)})


def draw_shares(found: Counter[int], counts: dict[int, int], frac: float) -> None:
    """The samples of each class in val, beside those that are asked for."""
    picture(
        "bars",
        "Samples of each class in val",
        f"{sum(found.values())} of {sum(counts.values())} samples are in val.",
        labels=[f"class {label}" for label in counts],
        series=[
            {"label": "asked for", "values": [frac * count for count in counts.values()]},
            {"label": "got", "values": [found[label] for label in counts]},
        ],
        unit="samples",
    )


@pytest.mark.task("stratified_split")
class TestStratifiedSplit:
    @pytest.mark.points(2, "structure")
    def test_partition(self, submission):
        """Every sample is in train or in val, and in one of them only."""
        labels = labels_of({3: 13, -1: 29, 7: 5})
        for groups in (None, some_groups([5, 7, 11, 3, 2, 19])):
            train, val = split_of(submission, labels.clone(), 0.3, groups, 2)
            both = sorted(set(train) & set(val))
            expect(
                not both,
                f"{len(both)} of 47 samples are in train and in val, the first is {head(both)}: "
                "what is trained on can't validate",
            )
            expect(
                sorted(train + val) == list(range(47)),
                f"train and val together have {len(train + val)} indices; expected each of 0 to "
                "46 once",
            )

    @pytest.mark.points(1, "structure")
    def test_sorted(self, submission):
        """Both are sorted int64 tensors, and the arguments stay."""
        labels = labels_of({0: 13, 1: 7, 4: 1})
        for groups in (None, some_groups([2, 3, 5, 11])):
            found = assert_unchanged(
                submission.stratified_split, labels=labels, frac=0.4, groups=groups, seed=3
            )
            for part, name in zip(found, ("train", "val"), strict=True):
                assert_dtype(assert_tensor(part, name), torch.int64, name)
                expect(
                    part.dim() == 1 and part.tolist() == sorted(part.tolist()),
                    f"{name} isn't sorted: {part.tolist()[:8]}",
                )

    @pytest.mark.points(2, "value")
    def test_class_shares(self, submission):
        """Every class has its share in val, up to one sample."""

        def run(case: dict[str, Any]) -> None:
            counts, frac = case["counts"], case["frac"]
            labels = labels_of(counts)
            for seed in range(3):
                _, val = split_of(submission, labels.clone(), frac, None, seed)
                found = Counter(labels[val].tolist())
                off = [n for n in counts if abs(found[n] - frac * counts[n]) > 1 + 1e-9]
                if off or (frac == 0.75 and seed == 2):
                    draw_shares(found, counts, frac)
                expect(
                    not off or any(abs(found[n] - (1 - frac) * counts[n]) > 1 for n in counts),
                    f"val has the share {1 - frac:.4g} of every class; frac={frac} is the share "
                    "of val, not of train",
                )
                for label in off:
                    fail(
                        f"class {label} has {found[label]} of its {counts[label]} samples in val; "
                        f"with frac={frac} it is {frac * counts[label]:.4g}, up to one. Draw "
                        "within each class, not from all samples",
                        got=found[label],
                        expected=frac * counts[label],
                    )

        smallest(
            run,
            [
                {"counts": {0: 5, 1: 11}, "frac": 0.4},
                {"counts": {-7: 97, 1: 43, 5: 211}, "frac": 0.3},
                {"counts": {-7: 97, 1: 43, 5: 211}, "frac": 0.75},
            ],
        )

    @pytest.mark.points(1, "value")
    def test_single_samples(self, submission):
        """A class of one sample goes to train."""
        for frac in (0.1, 0.5, 0.9):
            labels = labels_of({2: 1, 3: 7, 5: 1, 11: 1})
            _, val = split_of(submission, labels.clone(), frac, None, 1)
            alone = [label for label in labels[val].tolist() if label != 3]
            expect(
                not alone,
                f"class {head(alone)} has a single sample and it is in val (frac={frac}): nobody "
                "can learn it",
            )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("round(0.1 * 3) is 0.")
    def test_small_classes(self, submission):
        """A class of two samples or more is on both sides."""
        for frac in (0.05, 0.1, 0.5, 0.9, 0.95):
            counts = {1: 2, 4: 3, 6: 2, 9: 5, 12: 17}
            labels = labels_of(counts)
            train, val = split_of(submission, labels.clone(), frac, None, 1)
            for name, part in (("train", train), ("val", val)):
                missing = sorted(set(counts) - set(labels[part].tolist()))
                expect(
                    not missing,
                    f"with frac={frac}, class {head(missing)} with its "
                    f"{counts.get(head(missing))} samples isn't in {name}: the count was rounded "
                    "and the class vanished there",
                )

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("With groups, the unit that is drawn is the group.")
    def test_groups_stay_whole(self, submission):
        """No group is on both sides."""
        for seed in range(3):
            groups = some_groups([3, 5, 2, 7, 3, 11, 2])
            labels = labels_of({0: 20, 1: 13})
            train, val = split_of(submission, labels.clone(), 0.4, groups.clone(), seed)
            torn = sorted(set(groups[train].tolist()) & set(groups[val].tolist()))
            expect(
                not torn,
                f"group {head(torn)} has samples in train and in val: of {len(torn)} groups, what "
                "is learnt about one half answers for the other",
            )

    @pytest.mark.points(2, "value")
    def test_size_with_groups(self, submission):
        """With groups val has its share, up to the largest group."""
        sizes = [1] * 40 + [7] * 12
        total, largest = sum(sizes), max(sizes)
        for frac in (0.2, 0.35, 0.7):
            for seed in range(7):
                groups = some_groups(sizes)
                labels = labels_of({0: 100, 1: total - 100})
                _, val = split_of(submission, labels.clone(), frac, groups, seed)
                expect(
                    abs(len(val) - frac * total) <= largest,
                    f"val has {len(val)} of {total} samples; with frac={frac} it is "
                    f"{frac * total:.4g}, up to the largest group's {largest}. Count the samples, "
                    "not the groups",
                    got=len(val),
                    expected=frac * total,
                )

    @pytest.mark.points(1, "structure")
    def test_seed(self, submission):
        """The same seed gives the same split, other seeds give others."""
        labels = labels_of({0: 29, 1: 31})
        for groups in (None, some_groups([1, 2, 3, 5, 7, 11, 13, 18])):
            splits = []
            for seed in (0, 1, 2, 3, 4):
                first = split_of(submission, labels.clone(), 0.5, groups, seed)
                second = split_of(submission, labels.clone(), 0.5, groups, seed)
                expect(first == second, f"two calls with seed={seed} give different splits")
                splits.append(first)
            also = "" if groups is None else " with groups"
            expect(
                any(split != splits[0] for split in splits),
                f"the seeds 0 to 4 all give the same split{also}: the seed is ignored",
            )

    @pytest.mark.points(2, "structure")
    def test_global_generators(self, submission):
        """The global generators are neither read nor changed."""
        labels = labels_of({0: 29, 1: 31})
        for groups in (None, some_groups([1, 2, 3, 5, 7, 11, 13, 18])):
            run_isolated(
                lambda groups=groups: split_of(submission, labels.clone(), 0.5, groups, 3),
                "stratified_split",
            )


# --- 3 ------------------------------------------------------------------------------------------

KEYS = ("tokens", "mask", "length", "label")


def samples_of(*lengths: int, dtype: torch.dtype = torch.int64) -> list[tuple[Tensor, int]]:
    """Samples of these lengths, tokens 1 to 99, labels 0 to 6."""
    return [
        (rand_ints(length, low=1, high=100, dtype=dtype), int(rand_ints(1, high=7)))
        for length in lengths
    ]


def padded(samples: list[tuple[Tensor, int]], pad: int = 0) -> list[list[int]]:
    """The tokens with padding, as lists."""
    longest = max(len(tokens) for tokens, _ in samples)
    return [tokens.tolist() + [pad] * (longest - len(tokens)) for tokens, _ in samples]


def real(samples: list[tuple[Tensor, int]]) -> Tensor:
    """The mask, (batch, max_len): True for a real token."""
    longest = max(len(tokens) for tokens, _ in samples)
    return torch.tensor(
        [[place < len(tokens) for place in range(longest)] for tokens, _ in samples]
    ).reshape(len(samples), longest)


def copies(samples: list[tuple[Tensor, int]]) -> list[tuple[Tensor, int]]:
    """The samples with tensors of their own."""
    return [(tokens.clone(), label) for tokens, label in samples]


def collated(collate: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """The batch, a dict of four tensors."""
    found = collate(*args, **kwargs)
    shown = list(found) if isinstance(found, dict) else type(found).__name__
    expect(
        isinstance(found, dict) and sorted(found) == sorted(KEYS),
        f"expected a dict with {', '.join(KEYS)}; got {shown}",
    )
    for key in KEYS:
        assert_tensor(found[key], key)
    return found


@pytest.mark.task("pad_collate")
class TestPadCollate:
    @pytest.mark.points(2, "shape")
    def test_shapes(self, submission):
        """The batch is as wide as its own longest sample."""
        for lengths in ((2, 3), (11, 5, 7), (1, 3, 2, 5, 2)):
            batch = collated(submission.pad_collate, batch=samples_of(*lengths))
            longest = max(lengths)
            width = batch["tokens"].shape[-1] if batch["tokens"].dim() else 0
            expect(
                width == longest,
                f"tokens is {width} wide; the longest sample of this batch has {longest} tokens",
                got=width,
                expected=longest,
            )
            assert_shape(batch["tokens"], batch=len(lengths), max_len=longest)
            assert_shape(batch["mask"], batch=len(lengths), max_len=longest)
            assert_shape(batch["length"], batch=len(lengths))
            assert_shape(batch["label"], batch=len(lengths))

    @pytest.mark.points(2, "value")
    def test_tokens(self, submission):
        """The tokens stand at the front, padding behind them."""
        for pad in (0, 5):
            for _ in range(2):
                samples = samples_of(2, 5, 3)
                given = copies(samples)
                found = collated(submission.pad_collate, given, pad)["tokens"]
                front = [row[::-1] for row in padded([(t.flip(0), n) for t, n in samples], pad)]
                assert_equal(
                    found.tolist(),
                    padded(samples, pad),
                    what=f"with pad={pad}, tokens",
                    explain={
                        "the padding stands in front of the tokens; expected it at the end": front,
                        **(
                            {"the padding is 0; the argument `pad` is ignored": padded(samples)}
                            if pad
                            else {}
                        ),
                    },
                )
                expect(
                    all(torch.equal(a, b) for (a, _), (b, _) in zip(given, samples, strict=True)),
                    "the samples that were given have been changed",
                )

    @pytest.mark.points(1, "value")
    def test_order(self, submission):
        """The samples keep their order, with their lengths and labels."""
        samples = [
            (torch.full((length,), length), place) for place, length in enumerate((3, 7, 2, 5))
        ]
        batch = collated(submission.pad_collate, samples)
        first = batch["tokens"][:, 0].tolist()
        expect(
            first != [7, 5, 3, 2],
            "the samples are sorted by length; expected the order in which they came",
        )
        assert_equal(first, [3, 7, 2, 5], what="the first token of each sample")
        assert_equal(batch["length"].tolist(), [3, 7, 2, 5], what="length")
        assert_equal(batch["label"].tolist(), [0, 1, 2, 3], what="label")

    @pytest.mark.points(2, "value")
    def test_mask(self, submission):
        """The mask is True for real tokens."""
        for lengths in ((2, 3), (5, 2, 7)):
            samples = samples_of(*lengths)
            mask = collated(submission.pad_collate, copies(samples))["mask"]
            expected = real(samples)
            assert_dtype(mask, torch.bool, "the mask")
            expect(
                not torch.equal(mask, ~expected),
                "the mask is True for the padding; expected True for the real tokens",
            )
            assert_equal(mask.tolist(), expected.tolist(), what="the mask")

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("Only the lengths know what is real.")
    def test_pad_is_a_token(self, submission):
        """A real token that equals pad is real."""
        for pad in (0, 3):
            samples = [
                (torch.tensor([pad, 2]), 1),
                (torch.tensor([2, 3, 0, pad]), 0),
                (torch.tensor([pad]), 2),
            ]
            mask = collated(submission.pad_collate, samples, pad=pad)["mask"]
            compared = torch.tensor(padded(samples, pad)) != pad
            expect(
                not torch.equal(mask, compared),
                f"a real token that equals pad={pad} counts as padding: the mask compares tokens "
                "with pad; make it from the lengths",
            )
            counted = torch.arange(4) < compared.sum(1, keepdim=True)
            expect(
                not torch.equal(mask, counted),
                f"the lengths are counted by comparing tokens with pad={pad}, so a real token that "
                "equals pad is missed; they are the lengths of the samples",
            )
            assert_equal(mask.tolist(), real(samples).tolist(), what=f"with pad={pad}, mask")

    @pytest.mark.points(1, "shape")
    def test_dtypes(self, submission):
        """All but the mask is int64, whatever comes in."""
        for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
            samples = samples_of(2, 5, 3, dtype=dtype)
            batch = collated(submission.pad_collate, copies(samples))
            for key in ("tokens", "length", "label"):
                assert_dtype(batch[key], torch.int64, f"{key}, of samples in {dtype},")
            assert_equal(batch["tokens"].tolist(), padded(samples), what="tokens")

    @pytest.mark.points(1, "value")
    def test_large_pad(self, submission):
        """A pad that the samples' dtype can't hold is kept."""
        for dtype, pad in ((torch.int32, -100), (torch.uint8, -1), (torch.int16, 50257)):
            samples = samples_of(2, 5, 3, dtype=dtype)
            try:
                found = collated(submission.pad_collate, copies(samples), pad=pad)["tokens"]
            except (RuntimeError, OverflowError, ValueError) as error:
                fail(
                    f"with samples in {dtype} and pad={pad} it raises {type(error).__name__}: the "
                    "padding is written in the samples' dtype; convert before you pad",
                    details=(str(error)[:200],),
                )
            expect(
                found.tolist() == padded(samples, pad),
                f"with samples in {dtype} and pad={pad} the padding is "
                f"{found[0, -1].item()}: it was written in the samples' dtype; convert before you "
                "pad",
                got=found.tolist(),
                expected=padded(samples, pad),
            )

    @pytest.mark.points(2, "value")
    def test_zero_length(self, submission):
        """A sample without tokens is all padding."""
        for lengths in ((3, 0), (0, 2, 0, 5), (0, 0, 0)):
            samples = samples_of(*lengths)
            batch = collated(submission.pad_collate, copies(samples), pad=7)
            longest = max(lengths)
            assert_shape(batch["tokens"], batch=len(lengths), max_len=longest)
            assert_shape(batch["mask"], batch=len(lengths), max_len=longest)
            assert_equal(
                batch["tokens"].tolist(), padded(samples, 7), what=f"with lengths {lengths}, tokens"
            )
            assert_equal(batch["length"].tolist(), list(lengths), what="length")
            assert_equal(
                batch["mask"].sum(1).tolist(), list(lengths), what="real tokens in the mask"
            )
            for key in ("tokens", "length", "label"):
                assert_dtype(batch[key], torch.int64, key)

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("pickle finds a function by its name, at the level of a file.")
    def test_for_workers(self, submission):
        """It can be sent to workers, also as a partial."""
        why = (
            "pickle finds functions by name at the level of a file; a lambda or a function within "
            "a function has none there"
        )
        round_trip(submission.pad_collate, "pad_collate", why)
        partial = functools.partial(submission.pad_collate, pad=3)
        collate = round_trip(partial, "functools.partial(pad_collate, pad=3)", why)
        samples = samples_of(2, 5, 3, 7, 1)
        found = loaded(lambda: DataLoader(samples, batch_size=2, collate_fn=collate, **forked(2)))
        assert_equal(
            [batch["tokens"].tolist() for batch in found],
            [padded(samples[start : start + 2], 3) for start in (0, 2, 4)],
            what="of a DataLoader with two workers, tokens",
        )


# --- 4 ------------------------------------------------------------------------------------------


def batches_of(sampler: Any) -> list[list[int]]:
    """The batches of one pass, lists of Python ints."""
    found = list(sampler)
    for batch in found:
        expect(
            isinstance(batch, list) and all(type(index) is int for index in batch),
            f"a batch is {batch!r:.60}; expected a list of Python ints",
        )
    return found


def sets(batches: list[list[int]]) -> list[list[int]]:
    """The batches with their indices sorted: only the order of batches counts."""
    return [sorted(batch) for batch in batches]


def many_lengths() -> list[int]:
    """2000 log-normal lengths, always the same: the limit is not a matter of luck."""
    draw = torch.Generator().manual_seed(12)
    return (torch.randn(2000, generator=draw) * 0.6 + 3).exp().ceil().int().tolist()


def padded_size(batch: list[int], lengths: list[int]) -> int:
    """Tokens of the batch with its padding."""
    return len(batch) * max(lengths[index] for index in batch)


def lengths_of(count: int, high: int = 30) -> list[int]:
    """So many lengths, from 1."""
    return rand_ints(count, low=1, high=high).tolist()


@pytest.mark.task("BucketBatchSampler")
class TestBucketBatchSampler:
    @pytest.mark.points(3, "structure")
    def test_every_index_once(self, submission):
        """Every index comes once in an epoch."""

        def run(case: dict[str, Any]) -> None:
            lengths = case["lengths"]
            given = list(lengths)
            sampler = submission.BucketBatchSampler(
                lengths=given,
                max_tokens=case["max_tokens"],
                shuffle=case["shuffle"],
                seed=2,
            )
            for epoch in (0, 1):
                sampler.set_epoch(epoch)
                seen = Counter(index for batch in batches_of(sampler) for index in batch)
                missing = sorted(set(range(len(lengths))) - set(seen))
                expect(
                    not missing,
                    f"{len(missing)} of {len(lengths)} indices never come, the first is "
                    f"{head(missing)}; a batch that isn't full is a batch too",
                )
                twice = sorted(index for index, count in seen.items() if count > 1)
                expect(not twice, f"index {head(twice)} comes more than once in an epoch")
                expect(len(seen) == len(lengths), "there are indices that no sample has")
            expect(given == lengths, "the list of lengths that was given has been changed")

        cases = [{"lengths": [4], "max_tokens": 10}, {"lengths": [3, 5, 2], "max_tokens": 10}]
        cases += [{"lengths": lengths_of(count), "max_tokens": 64} for count in (7, 53, 101)]
        smallest(run, [case | {"shuffle": shuffle} for case in cases for shuffle in (False, True)])

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("What does the batch weigh once it is padded?")
    def test_budget(self, submission):
        """A batch with its padding stays within the budget."""

        def run(case: dict[str, Any]) -> None:
            lengths = case["lengths"]
            sampler = submission.BucketBatchSampler(list(lengths), case["max_tokens"], True, 3)
            for batch in batches_of(sampler):
                size = padded_size(batch, lengths) if batch else 0
                real_tokens = sum(lengths[index] for index in batch)
                expect(batch, "a batch is empty")
                why = ""
                if size > case["max_tokens"] >= real_tokens:
                    why = f"; without padding it has {real_tokens}, but a batch is padded"
                expect(
                    size <= case["max_tokens"],
                    f"a batch of {len(batch)}, the longest of {max(lengths[i] for i in batch)} "
                    f"tokens, has {size} with its padding; the budget is {case['max_tokens']}{why}",
                    got=size,
                    expected=case["max_tokens"],
                )

        smallest(
            run,
            [
                {"lengths": [2, 9, 3, 8], "max_tokens": 18},
                {"lengths": [1, 1, 1, 5, 5], "max_tokens": 10},
                *({"lengths": lengths_of(count), "max_tokens": 64} for count in (13, 101)),
            ],
        )

    @pytest.mark.points(2, "value")
    def test_over_long(self, submission):
        """An item longer than the budget is a batch of one."""

        def run(lengths: list[int]) -> None:
            sampler = submission.BucketBatchSampler(list(lengths), 10, False, 0)
            found = batches_of(sampler)
            for index, length in enumerate(lengths):
                mine = [batch for batch in found if index in batch]
                expect(mine, f"item {index} of length {length} never comes; the budget is 10")
                expect(
                    length <= 10 or mine == [[index]],
                    f"item {index} of length {length} shares the batch {mine[0]}; longer than the "
                    "budget of 10, it stands alone",
                    got=mine,
                )

        smallest(run, [[11], [3, 25], [11, 4, 17, 2, 30, 5]])

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("What may still be shuffled when the batches are cut?")
    def test_padding(self, submission):
        """Less than a fifth of the padded tokens is padding."""
        lengths = many_lengths()
        for shuffle in (False, True):
            sampler = submission.BucketBatchSampler(list(lengths), 2000, shuffle, 5)
            found = batches_of(sampler)
            sizes = [padded_size(batch, lengths) for batch in found]
            tokens = [sum(lengths[index] for index in batch) for batch in found]
            share = 1 - sum(tokens) / max(sum(sizes), 1)
            if shuffle:
                picture(
                    "bars",
                    "Real tokens and padding in the first batches",
                    f"{share:.0%} of the padded tokens are padding.",
                    labels=[f"batch {place}" for place in range(min(len(found), 8))],
                    series=[
                        {"label": "real", "values": tokens[:8]},
                        {
                            "label": "padding",
                            "values": [a - b for a, b in zip(sizes, tokens, strict=True)][:8],
                        },
                    ],
                    unit="tokens",
                )
            expect(
                share < 0.2,
                f"{share:.0%} of the padded tokens are padding (shuffle={shuffle}), expected less "
                "than 20 %: put samples of similar length together, and shuffle whole batches",
                got=share,
                expected=0.2,
            )

    @pytest.mark.points(1, "value")
    def test_few_batches(self, submission):
        """The batches are filled."""
        lengths = many_lengths()
        found = batches_of(submission.BucketBatchSampler(list(lengths), 2000, True, 5))
        limit = 1.5 * sum(lengths) / 2000
        expect(
            len(found) <= limit,
            f"there are {len(found)} batches for {sum(lengths)} tokens and a budget of 2000; "
            f"expected at most {limit:.1f}. Fill a batch up to its own budget",
            got=len(found),
            expected=limit,
        )

    @pytest.mark.points(2, "structure")
    def test_epochs(self, submission):
        """With shuffle, other epochs and seeds give other orders."""
        lengths = lengths_of(101)
        orders = {}
        for seed in (0, 7):
            sampler = submission.BucketBatchSampler(list(lengths), 64, True, seed)
            for epoch in range(3):
                sampler.set_epoch(epoch)
                orders[seed, epoch] = sets(batches_of(sampler))
        for epoch in (1, 2):
            expect(
                orders[0, epoch] != orders[0, 0],
                f"the batches of epoch {epoch} come in the same order as those of epoch 0",
            )
        expect(orders[0, 0] != orders[7, 0], "the seeds 0 and 7 give the same order of batches")
        longest = [max(lengths[index] for index in batch) for batch in orders[0, 1]]
        expect(
            longest not in (sorted(longest), sorted(longest, reverse=True)),
            "the batches come sorted by length although shuffle is True",
        )

    @pytest.mark.points(2, "structure")
    def test_repeatable(self, submission):
        """The same epoch gives the same batches, 0 at first."""
        lengths = lengths_of(53)
        sampler = submission.BucketBatchSampler(list(lengths), 64, True, 3)
        first = sets(batches_of(sampler))
        expect(
            sets(batches_of(sampler)) == first,
            "a second pass without set_epoch gives another order: iterating changes the epoch or "
            "draws on from a generator",
        )
        sampler.set_epoch(2)
        second = sets(batches_of(sampler))
        sampler.set_epoch(0)
        expect(sets(batches_of(sampler)) == first, "set_epoch(0) doesn't give the first order back")
        other = submission.BucketBatchSampler(list(lengths), 64, True, 3)
        other.set_epoch(2)
        expect(
            sets(batches_of(other)) == second,
            "a new sampler of the same seed gives another order in epoch 2: the order depends on "
            "what was drawn before",
        )

    @pytest.mark.points(1, "structure")
    def test_without_shuffle(self, submission):
        """Without shuffle the order is always the same."""
        lengths = lengths_of(53)
        orders = []
        for seed in (0, 1):
            sampler = submission.BucketBatchSampler(list(lengths), 64, False, seed)
            for epoch in (0, 1):
                sampler.set_epoch(epoch)
                orders.append(sets(batches_of(sampler)))
        expect(
            all(order == orders[0] for order in orders),
            "with shuffle=False the order changes with the seed or the epoch",
        )

    @pytest.mark.points(2, "value")
    def test_len(self, submission):
        """len() is the number of batches of the current epoch."""
        for count in (5, 101):
            for shuffle in (False, True):
                sampler = submission.BucketBatchSampler(lengths_of(count), 64, shuffle, 1)
                for epoch in range(4):
                    sampler.set_epoch(epoch)
                    size = len(sampler)
                    found = len(batches_of(sampler))
                    expect(
                        size == found == len(sampler),
                        f"len() is {size} in epoch {epoch}, but {found} batches came",
                        got=size,
                        expected=found,
                    )

    @pytest.mark.points(1, "structure")
    def test_global_generators(self, submission):
        """The global generators are neither read nor changed."""
        lengths = lengths_of(53)

        def run() -> list[list[int]]:
            sampler = submission.BucketBatchSampler(list(lengths), 64, True, 3)
            return sets(batches_of(sampler))

        run_isolated(run, "BucketBatchSampler")


# --- 5 ------------------------------------------------------------------------------------------


class OpenedFiles:
    """The names of the files that were opened while it listened.

    An audit hook can't be taken away again, so there is one for all checks.
    """

    names: list[str] | None = None
    installed = False

    @classmethod
    def _hook(cls, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and cls.names is not None and not isinstance(args[0], int):
            with contextlib.suppress(TypeError):
                cls.names.append(Path(os.fsdecode(args[0])).name)

    @classmethod
    @contextlib.contextmanager
    def listen(cls) -> Iterator[list[str]]:
        """The list of names, in the order of opening."""
        if not cls.installed:
            sys.addaudithook(cls._hook)
            cls.installed = True
        cls.names = names = []
        try:
            yield names
        finally:
            cls.names = None


def shards(folder: Path, *sizes: int, name: str = "part") -> tuple[list[Path], list[list[str]]]:
    """Files of so many lines, every line different: their paths, and their lines."""
    paths, lines = [], []
    for number, size in enumerate(sizes):
        paths.append(folder / f"{name}{number}.txt")
        lines.append([f"{name} {number} line {place}" for place in range(size)])
        paths[-1].write_text("".join(f"{line}\n" for line in lines[-1]))
    return paths, lines


@contextlib.contextmanager
def as_worker(stream: Any, number: int, count: int, seed: int = 1) -> Iterator[None]:
    """What `get_worker_info` says in worker `number` of `count`; no worker where count is 0."""
    before = workers_module._worker_info
    if count:
        workers_module._worker_info = workers_module.WorkerInfo(
            id=number, num_workers=count, seed=seed + number, dataset=stream
        )
    try:
        yield
    finally:
        workers_module._worker_info = before


def lines_of(stream: Any, number: int = 0, count: int = 0, seed: int = 1) -> list[str]:
    """What one worker yields."""
    with as_worker(stream, number, count, seed):
        return list(itertools.islice(iter(stream), 1000))


def expect_each_once(found: list[str], lines: list[list[str]], where: str) -> None:
    """Every line came, and none twice."""
    seen, expected = Counter(found), Counter(flat(lines))
    twice = sorted((seen - expected).keys())
    missing = sorted((expected - seen).keys())
    if len(lines) > 1 and not missing and all(count > 1 for count in seen.values()):
        fail(
            f"{where}, every line comes {max(seen.values())} times: each worker has a copy of the "
            "data set and reads all of it, unless it asks which worker it is",
            got=len(found),
            expected=len(flat(lines)),
        )
    expect(
        not missing,
        f"{where}, {len(missing)} of {len(flat(lines))} lines never come, such as "
        f"{head(missing)!r}",
    )
    expect(
        not twice,
        f"{where}, {head(twice)!r} comes {seen[head(twice)]} times and is "
        f"{expected[head(twice)]} times in the files",
    )


@pytest.mark.task("ShardedStream")
class TestShardedStream:
    @pytest.mark.points(2, "value")
    @pytest.mark.hint("What is left in the buffer when the last file ends?")
    def test_lines(self, submission, tmp_path):
        """Without workers every line comes once, as it is."""
        for buffer in (1, 3, 100):
            paths, lines = shards(tmp_path, 5, 2, 0, 7)
            given = list(paths)
            stream = submission.ShardedStream(files=given, buffer=buffer, seed=0)
            found = lines_of(stream)
            expect(given == paths, "the list of files that was given has been changed")
            for line in found:
                expect(isinstance(line, str), f"a line is of type {type(line).__name__}, not str")
                expect(not line.endswith("\n"), f"a line still has its newline: {line!r}")
            expect_each_once(found, lines, f"with a buffer of {buffer}")
        odd = tmp_path / "odd.txt"
        odd.write_text("  two spaces\n\na tab\t\ntwo spaces  \nno newline")
        found = lines_of(submission.ShardedStream([odd], 1, 0))
        assert_equal(
            found,
            ["  two spaces", "", "a tab\t", "two spaces  ", "no newline"],
            what="of a file with blanks, an empty line and no newline at its end, lines",
        )

    @pytest.mark.points(1, "value")
    def test_buffer_of_one(self, submission, tmp_path):
        """A buffer of 1 keeps the order of files and lines."""
        paths, lines = shards(tmp_path, 3, 5, 2)
        paths, lines = paths[::-1], lines[::-1]
        found = lines_of(submission.ShardedStream(list(paths), 1, 3))
        assert_equal(found, flat(lines), what="with a buffer of 1, lines")

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("In a worker, `get_worker_info()` has `id` and `num_workers`.")
    def test_workers(self, submission, tmp_path):
        """With 1, 2 or 3 workers every line comes once in all."""

        def run(case: dict[str, int]) -> None:
            paths, lines = shards(tmp_path, 5, 2, 7, 3, 4)
            stream = submission.ShardedStream(list(paths), case["buffer"], 0)
            count = case["workers"]
            found = [line for number in range(count) for line in lines_of(stream, number, count)]
            expect_each_once(found, lines, f"with {count} workers")

        smallest(run, [{"workers": n, "buffer": buffer} for n in (1, 2, 3) for buffer in (1, 3)])

    @pytest.mark.points(1, "value")
    def test_own_files(self, submission, tmp_path):
        """Worker w of n reads every n-th file from w, in order."""
        paths, lines = shards(tmp_path, 2, 3, 2, 5, 3)
        for count in (2, 3):
            for number in range(count):
                stream = submission.ShardedStream(list(paths), 1, 0)
                found = lines_of(stream, number, count)
                assert_equal(
                    found,
                    flat(lines[number::count]),
                    what=f"of worker {number} of {count}, lines",
                )

    @pytest.mark.points(1, "value")
    def test_fewer_files_than_workers(self, submission, tmp_path):
        """With fewer files than workers every line comes once."""
        for sizes, count in (((3,), 2), ((2, 5), 3), ((3, 2), 5)):
            paths, lines = shards(tmp_path, *sizes)
            stream = submission.ShardedStream(list(paths), 3, 0)
            found = [line for number in range(count) for line in lines_of(stream, number, count)]
            expect_each_once(found, lines, f"with {count} workers, files of {sizes} lines")

    @pytest.mark.points(1, "value")
    def test_real_workers(self, submission, tmp_path):
        """A DataLoader with two workers gives every line once."""
        paths, lines = shards(tmp_path, 5, 2, 7)
        stream = submission.ShardedStream(list(paths), 3, 0)
        found = loaded(lambda: DataLoader(stream, batch_size=None, **forked(2)))
        expect_each_once(found, lines, "in a DataLoader with two workers")

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("A generator function runs up to its next yield, no further.")
    def test_opened_when_needed(self, submission, tmp_path):
        """A file is opened when its lines are needed, by its worker."""
        paths, _ = shards(tmp_path, 5, 7, 5, 6, name="lazy")
        names = [path.name for path in paths]
        for buffer in (1, 3):
            with OpenedFiles.listen() as opened:
                stream = submission.ShardedStream(list(paths), buffer, 0)
                made = [name for name in opened if name in names]
                lines = iter(stream)
                next(lines)
                first = [name for name in opened if name in names]
            expect(
                not made, f"{', '.join(made)} were opened in __init__; nobody asked for a line yet"
            )
            expect(
                set(first) == {names[0]},
                f"with a buffer of {buffer}, {len(set(first))} files were opened for the first "
                "line; it needs the first one only",
                got=first,
                expected=names[:1],
            )
        for number in (0, 1):
            with OpenedFiles.listen() as opened:
                stream = submission.ShardedStream(list(paths), 3, 0)
                lines_of(stream, number, 2)
            foreign = sorted({name for name in opened if name in names} - set(names[number::2]))
            expect(
                not foreign,
                f"worker {number} of 2 opened {', '.join(foreign)}: these are the other worker's "
                "files. Share out files, not lines",
            )

    @pytest.mark.points(1, "value")
    def test_buffer_is_bounded(self, submission, tmp_path):
        """No line comes before the buffer could have held it."""
        for buffer in (2, 5):
            paths, lines = shards(tmp_path, 11, 13, 7)
            places = {line: place for place, line in enumerate(flat(lines))}
            for seed in range(3):
                found = lines_of(submission.ShardedStream(list(paths), buffer, seed))
                for place, line in enumerate(found):
                    expect(
                        places.get(line, 0) <= place + buffer,
                        f"with a buffer of {buffer}, line {places.get(line)} of the files came out "
                        f"as number {place}: more lines than that were held",
                    )

    @pytest.mark.points(1, "value")
    def test_shuffled(self, submission, tmp_path):
        """Other epochs, seeds and workers give other orders."""
        paths, lines = shards(tmp_path, 23, 23)
        stream = submission.ShardedStream(list(paths), 11, 0)
        orders = []
        for epoch in range(3):
            stream.set_epoch(epoch)
            orders.append(lines_of(stream))
        expect(orders[0] != flat(lines), "with a buffer of 11 the lines come in file order")
        expect(
            orders[0] != orders[1] != orders[2],
            "two epochs come in the same order: set_epoch has no effect",
        )
        other = lines_of(submission.ShardedStream(list(paths), 11, 1))
        expect(other != orders[0], "the seeds 0 and 1 give the same order")

    @pytest.mark.points(1, "value")
    def test_workers_differ(self, submission, tmp_path):
        """Two workers shuffle in different ways."""
        paths, _ = shards(tmp_path, 23, 23)
        stream = submission.ShardedStream(list(paths), 11, 0)
        places = [
            [line.rpartition(" ")[2] for line in lines_of(stream, number, 2)] for number in (0, 1)
        ]
        expect(
            places[0] != places[1],
            "two workers shuffle their files in the same way: each has a copy of the same "
            "generator; make it from seed, epoch and worker",
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("Where is the generator made, and how often?")
    def test_repeatable(self, submission, tmp_path):
        """The order depends on seed, epoch and worker alone."""
        paths, _ = shards(tmp_path, 13, 11)
        stream = submission.ShardedStream(list(paths), 7, 3)
        first = lines_of(stream)
        expect(
            lines_of(stream) == first,
            "a second pass of the same epoch has another order: it draws from a global generator, "
            "or from one that goes on where the first pass left it",
        )
        stream.set_epoch(2)
        second = lines_of(stream)
        other = submission.ShardedStream(list(paths), 7, 3)
        other.set_epoch(2)
        expect(
            lines_of(other) == second, "a new stream of the same seed and epoch has another order"
        )
        other.set_epoch(0)
        expect(lines_of(other) == first, "set_epoch(0) doesn't give the first order back")
        expect(
            lines_of(other, 1, 2, seed=5) == lines_of(other, 1, 2, seed=77),
            "the order depends on the `seed` of get_worker_info(), which is another one in every "
            "pass",
        )
        run_isolated(lambda: lines_of(other), "ShardedStream")


# --- 6 ------------------------------------------------------------------------------------------


class Numbers(Dataset[Tensor]):
    """The numbers 0 to n - 1, and which of them were fetched."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Tensor:
        place = operator.index(index)
        if not 0 <= place < self.n:
            raise IndexError(place)
        self.fetched.append(place)
        return torch.tensor(place)


def taken(loader: Any, count: int) -> list[list[int]]:
    """The next `count` batches, over as many calls of iter() as that takes."""
    found: list[list[int]] = []
    empty = 0
    while len(found) < count:
        before = len(found)
        for batch in loader:
            found.append(assert_tensor(batch, "a batch").tolist())
            if len(found) == count:
                break
        empty = 0 if len(found) > before else empty + 1
        expect(
            empty < 3,
            f"after {len(found)} batches, iter() gives no batch three times in a row; the next "
            "epoch should follow",
        )
    return found


def epochs_of(loader: Any, count: int) -> list[list[list[int]]]:
    """The batches of whole epochs, one call of iter() each."""
    return [
        [assert_tensor(batch, "a batch").tolist() for batch in itertools.islice(iter(loader), 1000)]
        for _ in range(count)
    ]


def through_json(state: Any) -> Any:
    """The state as a file would bring it back."""
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        fail(
            f"the state isn't what JSON can hold ({error}); two numbers say where the loader "
            "stands",
        )


def resumed(submission: Any, state: Any, size: int, batch_size: int, seed: int) -> Any:
    """A new loader that loaded the state."""
    loader = submission.ResumableLoader(Numbers(size), batch_size, seed)
    loader.load_state_dict(through_json(state))
    return loader


def expect_continued(
    found: list[list[int]], whole: list[list[int]], k: int, per_epoch: int, when: str
) -> None:
    """What follows after k batches is what the uninterrupted run gave."""
    expected = whole[k : k + len(found)]
    if found == expected:
        return
    rest = per_epoch - k % per_epoch
    if found[:rest] == expected[:rest]:
        why = "the rest of the epoch is right, the epochs after it are others"
    elif k % per_epoch and found[0] == whole[k - k % per_epoch]:
        why = "the epoch is begun anew, so its first batches come again"
    elif k and found[0] == whole[k - 1]:
        why = "the last batch handed out before the state comes again"
    elif found[0] == whole[k + 1]:
        why = "one batch is left out"
    elif found[0] == whole[0]:
        why = "everything is begun anew"
    elif sorted(flat(found[:rest])) != sorted(flat(expected[:rest])):
        why = "the epoch is shuffled anew, so samples come twice and others never"
    else:
        why = "they are in another order"
    fail(
        f"{when}, the batches aren't those that would have followed: {why}",
        got=found[:3],
        expected=expected[:3],
    )


@pytest.mark.task("ResumableLoader")
class TestResumableLoader:
    @pytest.mark.points(3, "structure")
    def test_every_sample_once(self, submission):
        """Every epoch holds every sample once, the last batch too."""
        for size, batch_size in ((3, 2), (11, 3), (12, 4), (5, 7)):
            loader = submission.ResumableLoader(
                dataset=Numbers(size), batch_size=batch_size, seed=0
            )
            for epoch, batches in enumerate(epochs_of(loader, 3)):
                expect(
                    batches,
                    f"the {('first', 'second', 'third')[epoch]} iter() gives no batch; it should "
                    "run through an epoch",
                )
                expected = [batch_size] * (size // batch_size) + [size % batch_size] * (
                    size % batch_size > 0
                )
                sizes = [len(batch) for batch in batches]
                expect(
                    sizes != expected[:-1] or size % batch_size == 0,
                    f"the smaller last batch of {size % batch_size} is dropped: {sizes}",
                )
                assert_equal(sizes, expected, what=f"the sizes of the batches in epoch {epoch}")
                expect(
                    sorted(flat(batches)) == list(range(size)),
                    f"epoch {epoch} doesn't hold each of the {size} samples once",
                    got=batches,
                )

    @pytest.mark.points(2, "value")
    def test_epochs_differ(self, submission):
        """Every epoch and every seed has an order of its own."""
        runs = {}
        for seed in (0, 7):
            loader = submission.ResumableLoader(Numbers(23), 5, seed)
            runs[seed] = [flat(batches) for batches in epochs_of(loader, 4)]
        picture(
            "heatmap",
            "Which sample comes when",
            "Each row is an epoch, each column a place in it, the color the sample's number.",
            maps=[{"label": "sample", "values": runs[0], "marked": [], "scale": "sequential"}],
            row_axis="epoch",
            column_axis="place",
            origin=[0, 0],
        )
        expect(runs[0][0] != list(range(23)), "the first epoch isn't shuffled")
        for one, other in itertools.combinations(range(4), 2):
            expect(
                runs[0][one] != runs[0][other],
                f"the epochs {one} and {other} have the same order; each is shuffled anew",
            )
        expect(runs[0] != runs[7], "the seeds 0 and 7 give the same order")
        again = epochs_of(submission.ResumableLoader(Numbers(23), 5, 7), 4)
        expect(
            [flat(batches) for batches in again] == runs[7],
            "two loaders with the same seed give different orders",
        )

    @pytest.mark.points(1, "structure")
    def test_collate(self, submission):
        """A batch is what collate_fn makes of a list of samples."""
        given: list[Any] = []

        def collate(batch: list[Any]) -> int:
            given.append(batch)
            return len(batch)

        found = list(submission.ResumableLoader(Numbers(7), 3, 1, collate_fn=collate))
        assert_equal(found, [3, 3, 1], what="with a collate_fn that counts, batches")
        for batch in given:
            expect(
                isinstance(batch, list) and all(isinstance(value, Tensor) for value in batch),
                f"collate_fn was given {type(batch).__name__}; expected the list of samples",
            )
        samples = [(torch.tensor([place, -place]), place) for place in range(7)]
        for x, y in submission.ResumableLoader(samples, 3, 1):
            assert_equal(x.tolist(), [[n, -n] for n in y.tolist()], what="a batch of pairs")

    @pytest.mark.points(2, "structure")
    def test_left_early(self, submission):
        """After an early break the next iter() goes on."""
        whole = taken(submission.ResumableLoader(Numbers(11), 3, 5), 12)
        for k in (2, 1, 3, 6):
            loader = submission.ResumableLoader(Numbers(11), 3, 5)
            taken(loader, k)
            (rest,) = epochs_of(loader, 1)
            left = 4 - k % 4
            expect(
                rest,
                f"left after {k} batches of 4 an epoch, the next iter() gives none; the rest of "
                "the epoch is lost",
            )
            expect_continued(rest[:left], whole, k, 4, f"left after {k} batches")
            assert_equal(len(rest), left, what=f"the number of batches left of the epoch after {k}")

    @pytest.mark.points(4, "value")
    @pytest.mark.hint("When the state is taken within the loop, its batch has been handed out.")
    def test_resumed(self, submission):
        """A new loader goes on where the state was taken."""

        def run(case: dict[str, int]) -> None:
            size, batch_size, seed, k = case["size"], case["batch_size"], case["seed"], case["k"]
            per_epoch = math.ceil(size / batch_size)
            make = lambda: submission.ResumableLoader(Numbers(size), batch_size, seed)  # noqa: E731
            whole = taken(make(), 4 * per_epoch)
            loader = make()
            states = [loader.state_dict()]
            while len(states) <= k:
                for _ in loader:
                    states.append(loader.state_dict())
                    if len(states) > k:
                        break
            count = 2 * per_epoch + 1
            found = taken(resumed(submission, states[k], size, batch_size, seed), count)
            expect_continued(found, whole, k, per_epoch, f"resumed after {k} batches")

        places = [2, 0, 1, 3, 5, 6, 7]  # at 1 two mistakes look alike
        smallest(
            run,
            [
                {"size": 11, "batch_size": 3, "seed": seed, "k": k}
                for seed in (0, int(rand_ints(1, high=1000)))
                for k in places
            ],
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("The state of a loader after its last batch, and after its loop, may differ.")
    def test_resumed_at_the_border(self, submission):
        """At the end of an epoch it goes on with the next one."""
        for size, batch_size, per_epoch in ((12, 3, 4), (11, 3, 4), (2, 3, 1)):
            make = lambda s=size, b=batch_size: submission.ResumableLoader(Numbers(s), b, 9)  # noqa: E731
            whole = taken(make(), 5 * per_epoch)
            for epochs in (1, 2):
                k = epochs * per_epoch
                early, complete = make(), make()
                taken(early, k)
                epochs_of(complete, epochs)
                for loader, when in (
                    (early, "within the loop, at its last batch"),
                    (complete, "after the loop had ended"),
                ):
                    state = loader.state_dict()
                    found = taken(resumed(submission, state, size, batch_size, 9), per_epoch + 2)
                    expect_continued(
                        found, whole, k, per_epoch, f"resumed from a state taken {when}"
                    )

    @pytest.mark.points(2, "value")
    def test_resumed_twice(self, submission):
        """A resumed loader can be saved and resumed again."""
        whole = taken(submission.ResumableLoader(Numbers(17), 3, 2), 24)
        loader = submission.ResumableLoader(Numbers(17), 3, 2)
        k = 0
        for step in (2, 1, 4, 5):
            found = taken(loader, step)
            expect_continued(found, whole, k, 6, f"resumed for a second time, after {k} batches")
            k += step
            loader = resumed(submission, loader.state_dict(), 17, 3, 2)

    @pytest.mark.points(2, "structure")
    def test_small_state(self, submission):
        """The state is a small dict that JSON can hold."""
        loader = submission.ResumableLoader(Numbers(997), 10, 3)
        for k in (0, 3, 100):
            state = loader.state_dict() if k == 0 else (taken(loader, k), loader.state_dict())[1]
            expect(
                isinstance(state, dict), f"the state is of type {type(state).__name__}, not a dict"
            )
            through_json(state)
            size = len(json.dumps(state).encode())
            expect(
                size < 1000,
                f"the state takes {size} bytes as JSON, expected fewer than 1000: an order that "
                "can be computed from seed and epoch needn't be stored",
                got=size,
                expected=1000,
            )

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("A dict that is handed out is shared, unless it is new each time.")
    def test_state_stays(self, submission):
        """A state doesn't change after it was taken or loaded."""
        loader = submission.ResumableLoader(Numbers(11), 3, 1)
        taken(loader, 2)
        state = loader.state_dict()
        copy = json.dumps(state)
        taken(loader, 3)
        expect(
            json.dumps(state) == copy,
            f"the state has become {json.dumps(state)} while the loader went on; it was {copy}",
        )
        other = submission.ResumableLoader(Numbers(11), 3, 1)
        other.load_state_dict(state)
        taken(other, 4)
        expect(
            json.dumps(state) == copy,
            f"the dict that was loaded has become {json.dumps(state)} while the loader went on; "
            f"it was {copy}",
        )

    @pytest.mark.points(2, "structure")
    @pytest.mark.hint("Skipping batches by drawing them costs as much as using them.")
    def test_no_replays(self, submission):
        """Resuming fetches no sample of earlier batches."""
        for k in (1, 3, 6):
            first = submission.ResumableLoader(Numbers(17), 3, 4)
            earlier = taken(first, k)
            state = through_json(first.state_dict())
            numbers = Numbers(17)
            loader = submission.ResumableLoader(dataset=numbers, batch_size=3, seed=4)
            loader.load_state_dict(state=state)
            if k % 6 == 0:
                taken(loader, 1)
                again: set[int] = set()
                limit = 17
            else:
                taken(loader, 6 - k % 6)
                again = set(numbers.fetched) & set(flat(earlier))
                limit = 17 - 3 * k
            expect(
                not again and len(numbers.fetched) <= limit,
                f"after resuming at batch {k}, {len(numbers.fetched)} samples were fetched where "
                f"{limit} were left: the batches of before are made once more and thrown away. "
                "Skip in the order, not in the data",
                got=len(numbers.fetched),
                expected=limit,
            )

    @pytest.mark.points(2, "structure")
    def test_global_generators(self, submission):
        """The global generators are neither read nor changed."""

        def run() -> list[list[int]]:
            loader = submission.ResumableLoader(Numbers(23), 5, 3)
            found = taken(loader, 7)
            return found + taken(resumed(submission, loader.state_dict(), 23, 5, 3), 3)

        run_isolated(
            run,
            "ResumableLoader",
            "; iterating over a DataLoader draws too, unless it is given a generator",
        )
