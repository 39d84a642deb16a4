"""Answers to day 12 that its suite must accept or reject."""

import bisect
import copy
import csv
import itertools
import math
import random
from collections import defaultdict

import numpy as np
import torch
from data_pipeline import *
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    default_collate,
    get_worker_info,
)

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("TableDataset")
class ByNumPy(Dataset):
    def __init__(self, path, target, stats=None):
        with open(path) as file:
            names = file.readline().strip().split(",")
        cells = np.genfromtxt(path, delimiter=",", skip_header=1, ndmin=2)
        place = names.index(target)
        self.y = cells[:, place].astype(np.int64)
        x = np.delete(cells, place, axis=1)
        names.remove(target)
        if stats is None:
            stats = {n: float(m) for n, m in zip(names, np.nanmean(x, axis=0), strict=True)}
        self.stats = dict(stats)
        self.x = np.where(np.isnan(x), [stats[n] for n in names], x).astype(np.float32)

    def __len__(self):
        return self.y.shape[0]

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), torch.tensor(self.y[i])


@accepted("TableDataset")
class RowsAsLists(Dataset):
    def __init__(self, path, target, stats=None):
        header, *rows = [line.split(",") for line in path.read_text().splitlines()]
        at = header.index(target)
        self.labels = [int(row.pop(at)) for row in rows]
        header.pop(at)
        if stats is None:
            stats = {}
            for column, name in enumerate(header):
                present = [float(row[column]) for row in rows if row[column] != ""]
                stats[name] = sum(present) / len(present)
        self.stats = stats
        self.rows = [
            [float(cell) if cell else stats[name] for cell, name in zip(row, header, strict=True)]
            for row in rows
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return torch.tensor(self.rows[index]), torch.tensor(self.labels[index], dtype=torch.int64)


@accepted("TableDataset")
class ParsesOnDemand(Dataset):
    def __init__(self, path, target, stats=None):
        self.target = target
        self.rows = list(csv.DictReader(open(path)))
        self.names = [name for name in self.rows[0] if name != target]
        self.stats = stats if stats is not None else {n: self.mean(n) for n in self.names}

    def mean(self, name):
        cells = [float(row[name]) for row in self.rows if row[name]]
        return math.fsum(cells) / len(cells)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.rows[index]
        features = [float(row[n]) if row[n] else self.stats[n] for n in self.names]
        return torch.as_tensor(features, dtype=torch.float32), torch.tensor(int(row[self.target]))


@accepted("TableDataset")
class MeansWithTheTargets(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        self.stats = {target: self.labels.double().mean().item(), **self.stats}


@rejected("TableDataset", by="test_label", says="has shape (1,)")
class LabelOfOneElement(TableDataset):
    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return features, label.reshape(1)


@rejected("TableDataset", by="test_label", says="int64")
class LabelAsFloat(TableDataset):
    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return features, label.float()


@rejected("TableDataset", by="test_label", says="tensor")
class LabelAsNumber(TableDataset):
    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return features, label.item()


@rejected("TableDataset", by="test_the_end", says="IndexError")
class WrapsAround(TableDataset):
    def __getitem__(self, index):
        return super().__getitem__(index % len(self))


@rejected("TableDataset", by="test_the_end", says="the last of 3 rows")
class ClampsTheIndex(TableDataset):
    def __getitem__(self, index):
        return super().__getitem__(min(index, len(self) - 1))


@rejected("TableDataset", by="test_the_end", says="ValueError")
class RaisesSomethingElse(TableDataset):
    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise ValueError("no such row")
        return super().__getitem__(index)

    def __iter__(self):
        return (self[index] for index in range(len(self)))


@rejected("TableDataset", by="test_negative_index", says="it is row 4")
class OnlyFromTheFront(TableDataset):
    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return super().__getitem__(index)


@rejected("TableDataset", by="test_negative_index")
class NegativeOffByOne(TableDataset):
    def __getitem__(self, index):
        if -len(self) <= index < 0:
            index = len(self) + index - 1
        return super().__getitem__(index)


@rejected("TableDataset", by="test_given_stats", says="this file's own mean")
class OwnStatsAlways(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target)


@rejected("TableDataset", by="test_given_stats", says="this file's own mean")
class OwnStatsInTheCells(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target)
        self.stats = stats or self.stats


@rejected("TableDataset", by="test_given_stats", says="a missing cell is 0")
class MissingIsZero(TableDataset):
    def __init__(self, path, target, stats=None):
        zeros = defaultdict(float)
        super().__init__(path, target, zeros)
        if stats is None:
            stats = TableDataset_(path, target).stats
        self.stats = stats


TableDataset_ = TableDataset


@rejected("TableDataset", by="test_given_stats", says="dataset.stats")
class ForgetsTheGivenStats(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        if stats is not None:
            self.stats = {}


@rejected("TableDataset", by="test_own_stats", says="as zeros")
class MissingCountsInTheMean(TableDataset):
    def __init__(self, path, target, stats=None):
        if stats is None:
            plain = TableDataset_(path, target, defaultdict(float))
            names = TableDataset_(path, target).stats
            stats = dict(zip(names, plain.features.double().mean(0).tolist(), strict=True))
        super().__init__(path, target, stats)


@rejected("TableDataset", by="test_own_stats", says="Python float")
class StatsAsTensors(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        if stats is None:
            self.stats = {name: torch.tensor(mean) for name, mean in self.stats.items()}


@rejected("TableDataset", by="test_own_stats")
class MedianInsteadOfMean(TableDataset):
    def __init__(self, path, target, stats=None):
        if stats is None:
            plain = TableDataset_(path, target, defaultdict(lambda: float("nan")))
            names = TableDataset_(path, target).stats
            medians = plain.features.double().nanmedian(0).values.tolist()
            stats = dict(zip(names, medians, strict=True))
        super().__init__(path, target, stats)


@rejected("TableDataset", by="test_features", says="float64")
class InDoublePrecision(TableDataset):
    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return features.double(), label


@rejected("TableDataset", by="test_features", says="the target is one of them")
def target_is_a_feature(reference: str) -> str:
    return reference.replace("if name != target]", "]")


@rejected("TableDataset", by="test_features", says="scaled")
class Standardised(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        self.features = (self.features - self.features.mean(0)) / self.features.std(0)


@rejected("TableDataset", by="test_features", says="alphabetical")
def sorted_columns(reference: str) -> str:
    return reference.replace("for name in rows[0] if", "for name in sorted(rows[0]) if")


@rejected("TableDataset", by="test_features")
def header_skipped_twice(reference: str) -> str:
    return reference.replace("list(csv.DictReader(file))", "list(csv.DictReader(file))[1:]")


@rejected("TableDataset", by="test_subset")
class ReadsOn(TableDataset):
    place = -1

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        self.place += 1
        return super().__getitem__(self.place % len(self))


@rejected("TableDataset", by="test_pickle", says="can't be pickled")
class KeepsTheFileOpen(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        self.file = open(path)


@rejected("TableDataset", by="test_pickle", says="lambda")
class KeepsALambda(TableDataset):
    def __init__(self, path, target, stats=None):
        super().__init__(path, target, stats)
        self.fill = lambda name: self.stats[name]


# --- 2 ------------------------------------------------------------------------------------------


@accepted("stratified_split")
def by_random(labels, frac, groups, seed):
    draw = random.Random(seed)
    val = set()
    if groups is None:
        classes = defaultdict(list)
        for index, label in enumerate(labels.tolist()):
            classes[label].append(index)
        for members in classes.values():
            if len(members) > 1:
                count = max(1, min(len(members) - 1, int(frac * len(members))))
                val.update(draw.sample(members, count))
    else:
        members = defaultdict(list)
        for index, group in enumerate(groups.tolist()):
            members[group].append(index)
        names = list(members)
        draw.shuffle(names)
        for name in names:
            if len(val) + len(members[name]) <= frac * len(labels):
                val.update(members[name])
    train = [index for index in range(len(labels)) if index not in val]
    return torch.tensor(train, dtype=torch.int64), torch.tensor(sorted(val), dtype=torch.int64)


@accepted("stratified_split")
def by_numpy(labels, frac, groups, seed):
    rng = np.random.default_rng(seed)
    if groups is None:
        val = []
        for label in np.unique(labels.numpy()):
            members = rng.permutation(np.flatnonzero(labels.numpy() == label))
            if members.size > 1:
                val.append(members[: np.clip(math.ceil(frac * members.size), 1, members.size - 1)])
        val = np.sort(np.concatenate(val)) if val else np.empty(0, dtype=np.int64)
    else:
        names, sizes = np.unique(groups.numpy(), return_counts=True)
        order = rng.permutation(len(names))
        total = np.cumsum(sizes[order])
        count = np.abs(total - frac * len(labels)).argmin() + 1
        val = np.flatnonzero(np.isin(groups.numpy(), names[order[:count]]))
    train = np.setdiff1d(np.arange(len(labels)), val)
    return torch.from_numpy(train).long(), torch.from_numpy(val).long()


@accepted("stratified_split")
def with_a_shuffled_order(labels, frac, groups, seed):
    g = torch.Generator()
    g.manual_seed(seed)
    order = torch.randperm(len(labels), generator=g)
    train, val = [], []
    if groups is not None:
        seen = {}
        for index in order.tolist():
            group = int(groups[index])
            if group not in seen:
                seen[group] = len(val) < frac * len(labels)
                members = (groups == group).nonzero().flatten().tolist()
                (val if seen[group] else train).extend(members)
    else:
        for label in labels.unique().tolist():
            members = order[labels[order] == label].tolist()
            count = round(len(members) * frac)
            if count == 0 and len(members) > 1:
                count = 1
            if count == len(members):
                count -= 1
            val += members[:count]
            train += members[count:]
    return torch.tensor(train).long().sort().values, torch.tensor(val).long().sort().values


@rejected("stratified_split", by="test_class_shares", says="within each class")
def plain_random_split(labels, frac, groups, seed):
    if groups is not None:
        return right_split(labels, frac, groups, seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    count = round(frac * len(labels))
    return order[count:].sort().values, order[:count].sort().values


right_split = stratified_split


@rejected("stratified_split", by="test_class_shares", says="not of train")
def share_of_train(labels, frac, groups, seed):
    return right_split(labels, 1 - frac, groups, seed)


@rejected("stratified_split", by=("test_class_shares", "test_partition"))
def train_and_val_swapped(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    return val, train[:-1]


@rejected("stratified_split", by="test_groups_stay_whole", says="in train and in val")
def groups_ignored(labels, frac, groups, seed):
    return right_split(labels, frac, None, seed)


@rejected("stratified_split", by="test_groups_stay_whole")
def groups_within_a_class(labels, frac, groups, seed):
    if groups is None:
        return right_split(labels, frac, None, seed)
    val = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        _, part = right_split(members, frac, groups[members], seed)
        val[members[part]] = True
    return (~val).nonzero()[:, 0], val.nonzero()[:, 0]


@rejected("stratified_split", by="test_size_with_groups", says="not the groups")
def a_share_of_the_groups(labels, frac, groups, seed):
    if groups is None:
        return right_split(labels, frac, None, seed)
    names = groups.unique()
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    val = torch.isin(groups, names[order[: round(frac * len(names))]])
    return (~val).nonzero()[:, 0], val.nonzero()[:, 0]


@rejected("stratified_split", by="test_size_with_groups")
def one_group_in_val(labels, frac, groups, seed):
    if groups is None:
        return right_split(labels, frac, None, seed)
    names = groups.unique()
    place = torch.randint(len(names), (), generator=torch.Generator().manual_seed(seed))
    val = groups == names[place]
    return (~val).nonzero()[:, 0], val.nonzero()[:, 0]


@rejected("stratified_split", by="test_global_generators", says="depends on the state")
def reads_the_global_generator(labels, frac, groups, seed):
    with torch.random.fork_rng(devices=[]):
        return right_split(labels, frac, groups, int(torch.randint(1000, ())))


@rejected("stratified_split", by="test_global_generators", says="global state of torch")
def without_the_generator(labels, frac, groups, seed):
    return right_split(labels, frac, groups, int(torch.randint(1000, ())))


@rejected("stratified_split", by="test_global_generators", says="global state of torch")
def seeds_the_global_generator(labels, frac, groups, seed):
    torch.manual_seed(seed)
    return right_split(labels, frac, groups, int(torch.randint(1000, ())))


@rejected("stratified_split", by="test_global_generators", says="global state of random")
def seeds_the_generator_of_python(labels, frac, groups, seed):
    random.seed(seed)
    return right_split(labels, frac, groups, random.randrange(1000))


@rejected("stratified_split", by="test_global_generators", says="global state of NumPy")
def seeds_the_generator_of_numpy(labels, frac, groups, seed):
    np.random.seed(seed)
    return right_split(labels, frac, groups, int(np.random.randint(1000)))


@rejected("stratified_split", by="test_seed", says="different splits")
def unseeded(labels, frac, groups, seed):
    return right_split(labels, frac, groups, random.randrange(1000))


@rejected("stratified_split", by="test_seed", says="the seed is ignored")
def one_seed_for_all(labels, frac, groups, seed):
    return right_split(labels, frac, groups, 0)


@rejected("stratified_split", by="test_seed", says="with groups: the seed is ignored")
def groups_in_their_order(labels, frac, groups, seed):
    return right_split(labels, frac, groups, seed if groups is None else 0)


@rejected("stratified_split", by="test_small_classes", says="isn't in val")
def rounds_a_class_away(reference: str) -> str:
    return reference.replace("min(max(round(frac * n), 1), n - 1)", "min(round(frac * n), n - 1)")


@rejected("stratified_split", by="test_small_classes", says="isn't in train")
def takes_a_class_whole(reference: str) -> str:
    return reference.replace(
        "min(max(round(frac * n), 1), n - 1)", "max(round(frac * n), 1) if n > 1 else 0"
    )


@rejected("stratified_split", by="test_single_samples", says="nobody can learn it")
def single_samples_in_val(reference: str) -> str:
    return reference.replace("min(max(round(frac * n), 1), n - 1)", "max(round(frac * n), 1)")


@rejected("stratified_split", by="test_single_samples", says="nobody can learn it")
def single_samples_rounded(reference: str) -> str:
    return reference.replace(
        "min(max(round(frac * n), 1), n - 1)",
        "min(max(round(frac * n), 1), n - 1) if n > 1 else round(frac)",
    )


@rejected("stratified_split", by="test_sorted", says="isn't sorted")
def in_random_order(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    return train.flip(0), val


@rejected("stratified_split", by="test_sorted", says="int64")
def as_small_integers(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    return train.int(), val.int()


@rejected("stratified_split", by="test_sorted", says="tensor")
def as_lists(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    return train.tolist(), val.tolist()


@rejected("stratified_split", by=("test_partition", "test_sorted"))
def as_a_mask(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    mask = torch.zeros(len(labels), dtype=torch.int64)
    mask[val] = 1
    return 1 - mask, mask


@rejected("stratified_split", by="test_partition", says="in train and in val")
def val_trains_too(labels, frac, groups, seed):
    _, val = right_split(labels, frac, groups, seed)
    return torch.arange(len(labels)), val


@rejected("stratified_split", by="test_partition", says="together have")
def drops_single_classes(labels, frac, groups, seed):
    train, val = right_split(labels, frac, groups, seed)
    return train[1:], val


@rejected("stratified_split", by="test_sorted", says="changed")
def sorts_the_labels(labels, frac, groups, seed):
    found = right_split(labels, frac, groups, seed)
    labels.copy_(labels.sort().values)
    return found


# --- 3 ------------------------------------------------------------------------------------------


@accepted("pad_collate")
def by_hand(batch, pad=0):
    length = torch.tensor([tokens.numel() for tokens, _ in batch], dtype=torch.int64)
    width = int(length.max())
    tokens = torch.full((len(batch), width), pad, dtype=torch.int64)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (values, _) in enumerate(batch):
        tokens[row, : len(values)] = values
        mask[row, : len(values)] = True
    label = torch.as_tensor([label for _, label in batch])
    return {"tokens": tokens, "mask": mask, "length": length, "label": label}


@accepted("pad_collate")
def by_functional_pad(batch, pad=0):
    rows, labels = zip(*batch, strict=True)
    lengths = [len(row) for row in rows]
    tokens = torch.stack([F.pad(r.long(), (0, max(lengths) - len(r)), value=pad) for r in rows])
    mask = pad_sequence([torch.ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
    return {
        "tokens": tokens,
        "mask": mask,
        "length": torch.tensor(lengths),
        "label": torch.LongTensor(labels),
    }


@accepted("pad_collate")
def by_lists(batch, pad=0):
    longest = max(len(tokens) for tokens, _ in batch)
    rows = [tokens.tolist() + [pad] * (longest - len(tokens)) for tokens, _ in batch]
    kept = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in batch]
    return dict(
        tokens=torch.tensor(rows, dtype=torch.long),
        mask=torch.tensor(kept, dtype=torch.bool),
        length=torch.tensor([len(tokens) for tokens, _ in batch]),
        label=torch.tensor([label for _, label in batch]),
    )


@accepted("pad_collate")
class Collate:
    """A callable object at the level of the file can be pickled too."""

    def __new__(cls, batch, pad=0):
        tokens = [t.to(torch.int64) for t, _ in batch]
        length = torch.tensor([t.shape[0] for t in tokens])
        padded = torch.empty(len(batch), max(length), dtype=torch.int64).fill_(pad)
        mask = torch.arange(max(length)).expand(len(batch), -1).lt(length.unsqueeze(1))
        padded[mask] = torch.cat(tokens)
        label = torch.stack([torch.tensor(label) for _, label in batch])
        return {"tokens": padded, "mask": mask, "length": length, "label": label}


@rejected("pad_collate", by="test_pad_is_a_token", says="compares tokens with pad")
def mask_by_comparing(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"mask": found["tokens"] != pad}


right_collate = pad_collate


@rejected("pad_collate", by="test_pad_is_a_token", says="lengths of the samples")
def length_by_comparing(batch, pad=0):
    found = right_collate(batch, pad)
    length = (found["tokens"] != pad).sum(1)
    mask = torch.arange(found["tokens"].shape[1]) < length[:, None]
    return found | {"mask": mask, "length": length}


@rejected("pad_collate", by="test_shapes", says="the longest sample of this batch")
def to_a_global_maximum(batch, pad=0):
    found = right_collate([*batch, (torch.zeros(512), 0)], pad)
    return {key: value[:-1] for key, value in found.items()}


longest_so_far = 0


@rejected("pad_collate", by="test_shapes", says="the longest sample of this batch")
def to_the_longest_so_far(batch, pad=0):
    global longest_so_far
    longest_so_far = max(longest_so_far, *(len(tokens) for tokens, _ in batch))
    found = right_collate([*batch, (torch.zeros(longest_so_far), 0)], pad)
    return {key: value[:-1] for key, value in found.items()}


@rejected("pad_collate", by="test_shapes", says="the longest sample of this batch")
def cut_to_the_shortest(batch, pad=0):
    found = right_collate(batch, pad)
    width = int(found["length"].min())
    return found | {"tokens": found["tokens"][:, :width], "mask": found["mask"][:, :width]}


@rejected("pad_collate", by="test_shapes")
def time_first(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"tokens": found["tokens"].T, "mask": found["mask"].T}


@rejected("pad_collate", by="test_shapes", says="expected a dict")
def as_a_tuple(batch, pad=0):
    return tuple(right_collate(batch, pad).values())


@rejected("pad_collate", by="test_mask", says="for the padding")
def mask_inverted(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"mask": ~found["mask"]}


@rejected("pad_collate", by="test_mask", says="bool")
def mask_of_numbers(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"mask": found["mask"].long()}


@rejected("pad_collate", by="test_mask")
def mask_one_too_long(reference: str) -> str:
    return reference.replace("< length[:, None]", "<= length[:, None]")


@rejected("pad_collate", by="test_for_workers", says="lambda")
def as_a_lambda(reference: str) -> str:
    return (
        reference
        + "\n\nright = pad_collate\npad_collate = lambda batch, pad=0: right(batch, pad)\n"
    )


@rejected("pad_collate", by="test_for_workers", says="can't be pickled")
def as_a_closure(reference: str) -> str:
    return reference + (
        "\n\nright = pad_collate\n\n\ndef make():\n    def pad_collate(batch, pad=0):\n"
        "        return right(batch, pad)\n    return pad_collate\n\n\npad_collate = make()\n"
    )


@rejected("pad_collate", by="test_tokens", says="in front of the tokens")
def padded_in_front(batch, pad=0):
    found = right_collate([(tokens.flip(0), label) for tokens, label in batch], pad)
    return found | {"tokens": found["tokens"].flip(1), "mask": found["mask"].flip(1)}


@rejected("pad_collate", by="test_tokens", says="`pad` is ignored")
def pad_ignored(batch, pad=0):
    return right_collate(batch)


@rejected("pad_collate", by="test_tokens", says="changed")
def writes_into_the_samples(batch, pad=0):
    found = right_collate(batch, pad)
    for tokens, _ in batch:
        tokens.zero_()
    return found


@rejected("pad_collate", by="test_order", says="sorted by length")
def sorted_by_length(batch, pad=0):
    return right_collate(sorted(batch, key=lambda sample: -len(sample[0])), pad)


@rejected("pad_collate", by="test_order")
def labels_left_behind(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"label": found["label"].sort().values.flip(0)}


@rejected("pad_collate", by="test_dtypes", says="int64")
def in_the_samples_dtype(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"tokens": found["tokens"].to(batch[0][0].dtype)}


@rejected("pad_collate", by="test_dtypes", says="int64")
def lengths_in_int32(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"length": found["length"].int()}


@rejected("pad_collate", by="test_large_pad", says="convert before you pad")
def converted_after_padding(batch, pad=0):
    found = right_collate(batch)
    tokens = pad_sequence([tokens for tokens, _ in batch], batch_first=True, padding_value=pad)
    return found | {"tokens": tokens.long()}


@rejected("pad_collate", by="test_large_pad", says="convert before you pad")
def pad_wraps_around(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"tokens": found["tokens"].to(batch[0][0].dtype).long()}


@rejected("pad_collate", by="test_zero_length")
def drops_empty_samples(batch, pad=0):
    return right_collate([sample for sample in batch if len(sample[0])] or batch, pad)


@rejected("pad_collate", by="test_zero_length")
def at_least_one_token(batch, pad=0):
    found = right_collate([*batch, (torch.zeros(1), 0)], pad)
    return {key: value[:-1] for key, value in found.items()}


@rejected("pad_collate", by="test_zero_length")
def empty_counts_as_one(batch, pad=0):
    found = right_collate(batch, pad)
    return found | {"length": found["length"].clamp_min(1)}


# --- 4 ------------------------------------------------------------------------------------------


def cut(order, lengths, budget):
    """Batches along an order, each filled up to the budget."""
    batches, batch, longest = [], [], 0
    for index in order:
        longest = max(longest, lengths[index])
        if batch and (len(batch) + 1) * longest > budget:
            batches.append(batch)
            batch, longest = [], lengths[index]
        batch.append(index)
    return [*batches, batch] if batch else batches


class Settings(Sampler):
    """Keeps the arguments; its children say how the batches are made."""

    def __init__(self, lengths, max_tokens, shuffle, seed):
        self.lengths, self.max_tokens = lengths, max_tokens
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.batches())

    def __iter__(self):
        return iter(self.batches())


@accepted("BucketBatchSampler")
class NoisySort(Settings):
    def batches(self):
        draw = random.Random(f"{self.seed}/{self.epoch}")
        noise = 0.2 if self.shuffle else 0.0
        keys = [length * (1 + noise * draw.random()) for length in self.lengths]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        batches = cut(order, self.lengths, self.max_tokens)
        if self.shuffle:
            draw.shuffle(batches)
        return batches


@accepted("BucketBatchSampler")
class LongestFirst(Settings):
    def batches(self):
        order = torch.tensor(self.lengths).argsort(descending=True).tolist()
        batches = []
        while order:
            size = max(1, self.max_tokens // self.lengths[order[0]])
            batches.append(order[:size])
            order = order[size:]
        if not self.shuffle:
            return batches
        rng = np.random.default_rng([self.seed, self.epoch])
        return [batches[place] for place in rng.permutation(len(batches))]


@accepted("BucketBatchSampler")
class ShuffledThenSorted(Settings):
    """Equal lengths change places too, and so the batches their members."""

    def batches(self):
        draw = torch.Generator().manual_seed(self.seed * 1000 + self.epoch)
        order = list(range(len(self.lengths)))
        if self.shuffle:
            order = torch.randperm(len(order), generator=draw).tolist()
        order.sort(key=lambda index: self.lengths[index])
        batches = cut(order, self.lengths, self.max_tokens)
        if self.shuffle:
            places = torch.randperm(len(batches), generator=draw).tolist()
            batches = [batches[place] for place in places]
        return batches


@accepted("BucketBatchSampler")
class ALazyCopy(BucketBatchSampler):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch[::-1]


@rejected("BucketBatchSampler", by="test_every_index_once", says="isn't full")
def drops_the_last_batch(reference: str) -> str:
    return reference.replace("        if batch:\n            self.batches.append(batch)\n", "")


@rejected("BucketBatchSampler", by="test_every_index_once", says="never come")
class DropsTheSmallest(Settings):
    def batches(self):
        found = cut(range(len(self.lengths)), self.lengths, self.max_tokens)
        return [batch for batch in found if len(batch) > 1] or found[:1]


@rejected("BucketBatchSampler", by="test_every_index_once", says="more than once")
class WithReplacement(Settings):
    def batches(self):
        found = cut(range(len(self.lengths)), self.lengths, self.max_tokens)
        return [*found, found[0]]


@rejected("BucketBatchSampler", by="test_budget", says="without padding")
def budget_by_the_sum(reference: str) -> str:
    return reference.replace(
        "(len(batch) + 1) * lengths[index] >", "sum(lengths[i] for i in [*batch, index]) >"
    )


@rejected("BucketBatchSampler", by="test_budget", says="with its padding")
def checked_too_late(reference: str) -> str:
    return reference.replace("(len(batch) + 1) * lengths", "len(batch) * lengths")


@rejected("BucketBatchSampler", by="test_budget", says="with its padding")
def by_the_last_length(reference: str) -> str:
    return reference.replace(
        "sorted(range(len(lengths)), key=lengths.__getitem__)", "range(len(lengths))"
    )


@rejected("BucketBatchSampler", by="test_budget")
class BudgetOfSamples(Settings):
    def batches(self):
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        size = self.max_tokens // 2
        return [order[start : start + size] for start in range(0, len(order), size)]


@rejected("BucketBatchSampler", by="test_over_long", says="never comes")
def over_long_items_dropped(reference: str) -> str:
    return reference.replace(
        "            batch.append(index)\n",
        "            if lengths[index] <= max_tokens:\n                batch.append(index)\n",
    )


@rejected("BucketBatchSampler", by="test_over_long", says="stands alone")
class OverLongTogether(BucketBatchSampler):
    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths, max_tokens, shuffle, seed)
        alone = [i for i, length in enumerate(lengths) if length > max_tokens]
        self.batches = [b for b in self.batches if b[0] not in alone]
        if alone:
            self.batches.append(alone)


@rejected("BucketBatchSampler", by="test_padding", says="shuffle whole batches")
class ShuffledAfterSorting(Settings):
    def batches(self):
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(order)
        return cut(order, self.lengths, self.max_tokens)


@rejected("BucketBatchSampler", by="test_padding", says="similar length")
class InFileOrder(Settings):
    def batches(self):
        found = cut(range(len(self.lengths)), self.lengths, self.max_tokens)
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(found)
        return found


@rejected("BucketBatchSampler", by="test_padding", says="similar length")
class WideBuckets(Settings):
    def batches(self):
        draw = random.Random(self.seed + self.epoch)
        buckets = defaultdict(list)
        for index, length in enumerate(self.lengths):
            buckets[bisect.bisect((8, 16, 32, 64, 128), length)].append(index)
        if self.shuffle:
            for members in buckets.values():
                draw.shuffle(members)
        found = [b for part in buckets.values() for b in cut(part, self.lengths, self.max_tokens)]
        if self.shuffle:
            draw.shuffle(found)
        return found


@rejected("BucketBatchSampler", by="test_few_batches", says="Fill a batch")
class OneByOne(BucketBatchSampler):
    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths, max_tokens, shuffle, seed)
        self.batches = [[index] for batch in self.batches for index in batch]


@rejected("BucketBatchSampler", by="test_few_batches", says="its own budget")
class AsManyAsOfTheLongest(Settings):
    def batches(self):
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        size = max(1, self.max_tokens // max(self.lengths))
        found = [order[start : start + size] for start in range(0, len(order), size)]
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(found)
        return found


@rejected("BucketBatchSampler", by="test_epochs", says="the same order as those of epoch 0")
def epoch_ignored(reference: str) -> str:
    return reference.replace(
        "manual_seed(self.seed + self.epoch)\n            order = torch.randperm(len(self.batches)",
        "manual_seed(self.seed)\n            order = torch.randperm(len(self.batches)",
    )


@rejected("BucketBatchSampler", by="test_epochs", says="the seeds 0 and 7")
def seed_ignored(reference: str) -> str:
    return reference.replace(
        "manual_seed(self.seed + self.epoch)\n            order = torch.randperm(len(self.batches)",
        "manual_seed(self.epoch)\n            order = torch.randperm(len(self.batches)",
    )


@rejected("BucketBatchSampler", by="test_epochs", says="same order")
class ShuffledWithinOnly(BucketBatchSampler):
    def __iter__(self):
        draw = random.Random(self.seed + self.epoch)
        for batch in self.batches:
            yield draw.sample(batch, len(batch)) if self.shuffle else batch


@rejected("BucketBatchSampler", by="test_epochs", says="sorted by length")
class OnlyEqualLengthsChangePlaces(Settings):
    def batches(self):
        order = list(range(len(self.lengths)))
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(order)
        order.sort(key=self.lengths.__getitem__)
        return cut(order, self.lengths, self.max_tokens)


@rejected("BucketBatchSampler", by="test_repeatable", says="a second pass")
class NextEpochByItself(BucketBatchSampler):
    def __iter__(self):
        yield from list(super().__iter__())
        self.epoch += 1


@rejected("BucketBatchSampler", by="test_repeatable", says="a second pass")
class DrawsOn(BucketBatchSampler):
    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths, max_tokens, shuffle, seed)
        self.draw = random.Random(seed)

    def __iter__(self):
        found = list(self.batches)
        if self.shuffle:
            self.draw.shuffle(found)
        return iter(found)


@rejected("BucketBatchSampler", by="test_repeatable", says="what was drawn before")
class ShufflesTheShuffled(BucketBatchSampler):
    """The order of epoch 2 stands on those before, and is remembered."""

    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths, max_tokens, shuffle, seed)
        self.orders, self.draw = {}, random.Random(seed)

    def __iter__(self):
        if not self.shuffle:
            return iter(self.batches)
        if self.epoch not in self.orders:
            self.draw.shuffle(self.batches)
            self.orders[self.epoch] = list(self.batches)
        return iter(self.orders[self.epoch])


@rejected("BucketBatchSampler", by="test_without_shuffle", says="with shuffle=False")
def always_shuffled(reference: str) -> str:
    return reference.replace("if self.shuffle:", "if True:")


@rejected("BucketBatchSampler", by="test_len", says="batches came")
class LengthOfTheFirstEpoch(Settings):
    def __len__(self):
        return len(cut(sorted(range(len(self.lengths))), self.lengths, self.max_tokens))

    def batches(self):
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        found = cut(order, self.lengths, self.max_tokens)
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(found)
        return found


@rejected("BucketBatchSampler", by="test_len", says="len() is")
class NumberOfSamples(BucketBatchSampler):
    def __len__(self):
        return sum(len(batch) for batch in self.batches)


@rejected("BucketBatchSampler", by="test_len")
def length_by_division(reference: str) -> str:
    return reference.replace(
        "return len(self.batches)",
        "return -(-self.tokens // self.max_tokens)",
    ).replace(
        "        self.batches: list",
        "        self.tokens, self.max_tokens = sum(lengths), max_tokens\n"
        "        self.batches: list",
    )


@rejected("BucketBatchSampler", by="test_global_generators", says="changes the global state")
class GlobalShuffle(BucketBatchSampler):
    def __iter__(self):
        torch.manual_seed(self.seed + self.epoch)
        return super().__iter__() if not self.shuffle else self.drawn()

    def drawn(self):
        for place in torch.randperm(len(self.batches)).tolist():
            yield self.batches[place]


@rejected("BucketBatchSampler", by="test_every_index_once", says="has been changed")
class SortsTheLengths(BucketBatchSampler):
    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths, max_tokens, shuffle, seed)
        lengths.sort()


@rejected("BucketBatchSampler", by="test_every_index_once", says="list of Python ints")
class AsTensors(BucketBatchSampler):
    def __iter__(self):
        return (torch.tensor(batch) for batch in super().__iter__())


@rejected("BucketBatchSampler", by="test_every_index_once", says="list of Python ints")
class AsNumPyNumbers(BucketBatchSampler):
    def __iter__(self):
        return (list(np.array(batch)) for batch in super().__iter__())


@accepted("BucketBatchSampler")
class SortedPools(Settings):
    """Three pools of a random order, each sorted."""

    def batches(self):
        draw = random.Random(self.seed * 100003 + self.epoch)
        order = list(range(len(self.lengths)))
        if self.shuffle:
            draw.shuffle(order)
        found = []
        size = max(-(-len(order) // 3), 1)
        for start in range(0, len(order), size):
            pool = sorted(order[start : start + size], key=lambda i: self.lengths[i])
            found += cut(pool, self.lengths, self.max_tokens)
        if self.shuffle:
            draw.shuffle(found)
        return found


@accepted("BucketBatchSampler")
class FixedInSetEpoch(BucketBatchSampler):
    """The order is made when the epoch is set."""

    def __init__(self, lengths, max_tokens, shuffle, seed):
        super().__init__(lengths=lengths, max_tokens=max_tokens, shuffle=shuffle, seed=seed)
        self.sorted_batches = list(self.batches)
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.batches = list(self.sorted_batches)
        if self.shuffle:
            random.Random(hash((self.seed, epoch))).shuffle(self.batches)

    def __iter__(self):
        return iter(self.batches)


# --- 5 ------------------------------------------------------------------------------------------


@accepted("ShardedStream")
class InChunks(ShardedStream):
    """Fills the buffer, empties it in random order, fills it again."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        rng = np.random.default_rng([self.seed, self.epoch, first])
        lines = itertools.chain.from_iterable(map(self.read, self.files[first::step]))
        while chunk := list(itertools.islice(lines, self.buffer)):
            for place in rng.permutation(len(chunk)):
                yield chunk[place]

    @staticmethod
    def read(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\n")


@accepted("ShardedStream")
class FilesNotClosedByHand(IterableDataset):
    def __init__(self, files, buffer, seed):
        super().__init__()
        self.files, self.buffer, self.seed, self.epoch = files, buffer, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        info = get_worker_info()
        worker = info.id if info else 0
        workers = info.num_workers if info else 1
        g = torch.Generator().manual_seed((self.seed * 1009 + self.epoch) * 101 + worker)
        held = []
        for number, path in enumerate(self.files):
            if number % workers != worker:
                continue
            for line in open(path):
                held.append(line[:-1] if line.endswith("\n") else line)
                if len(held) >= self.buffer:
                    yield held.pop(int(torch.randint(len(held), (1,), generator=g)))
        for place in torch.randperm(len(held), generator=g).tolist():
            yield held[place]


@accepted("ShardedStream")
class WholeFilesAtOnce(ShardedStream):
    def __iter__(self):
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        rng = random.Random(hash((self.seed, self.epoch, worker)))
        held = []
        for path in self.files[worker::workers]:
            for line in path.read_text().splitlines():
                held.append(line)
                if len(held) > self.buffer:
                    yield held.pop(rng.randrange(self.buffer))
        while held:
            yield held.pop(rng.randrange(len(held)))


@rejected("ShardedStream", by=("test_workers", "test_real_workers"), says="copy of the data set")
def no_split(reference: str) -> str:
    return reference.replace("self.files[worker::workers]", "self.files")


@rejected("ShardedStream", by=("test_workers", "test_real_workers"), says="which worker it is")
def asks_in_init(reference: str) -> str:
    return reference.replace(
        "        self.files = files\n",
        "        self.files = files\n        self.info = get_worker_info()\n",
    ).replace("info = get_worker_info()\n        worker,", "info = self.info\n        worker,")


@rejected("ShardedStream", by="test_real_workers", says="in a DataLoader")
class KeepsTheFirstAnswer(ShardedStream):
    """Has no info where it was made, and takes that along to the workers."""

    files_of_mine = None

    def __init__(self, files, buffer, seed):
        super().__init__(files, buffer, seed)
        self.mine = [] if get_worker_info() else files

    def __iter__(self):
        whole, self.files = self.files, self.mine
        info = get_worker_info()
        if info is not None:
            self.files = [path for path in whole for _ in range(info.num_workers)]
        try:
            yield from super().__iter__()
        finally:
            self.files = whole


@rejected("ShardedStream", by=("test_opened_when_needed", "test_own_files"), says="not lines")
class SplitsTheLines(ShardedStream):
    def __iter__(self):
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        draw = random.Random(f"{self.seed} {self.epoch} {worker}")
        held = []
        for number, line in enumerate(self.all_lines()):
            if number % workers != worker:
                continue
            held.append(line)
            if len(held) > self.buffer:
                yield held.pop(draw.randrange(self.buffer))
        draw.shuffle(held)
        yield from held

    def all_lines(self):
        for path in self.files:
            with open(path) as file:
                for line in file:
                    yield line.removesuffix("\n")


@rejected("ShardedStream", by="test_own_files", says="worker 0 of 2")
def contiguous_shares(reference: str) -> str:
    return reference.replace(
        "self.files[worker::workers]",
        "self.files[len(self.files) * worker // workers "
        ": len(self.files) * (worker + 1) // workers]",
    )


@rejected("ShardedStream", by="test_fewer_files_than_workers", says="workers")
def at_least_one_file_each(reference: str) -> str:
    return reference.replace(
        "self.files[worker::workers]", "self.files[worker::workers] or self.files[:1]"
    )


@rejected("ShardedStream", by=("test_workers", "test_fewer_files_than_workers"), says="never come")
def the_remainder_is_lost(reference: str) -> str:
    return reference.replace(
        "self.files[worker::workers]",
        "self.files[: len(self.files) // workers * workers][worker::workers]",
    )


@rejected("ShardedStream", by="test_lines", says="never come")
def buffer_not_flushed(reference: str) -> str:
    return reference.replace("        draw.shuffle(held)\n        yield from held\n", "")


@rejected("ShardedStream", by="test_lines", says="has been changed")
class UsesTheFilesUp(ShardedStream):
    def __iter__(self):
        yield from super().__iter__()
        self.files.clear()


@rejected("ShardedStream", by="test_lines", says="newline")
def with_the_newline(reference: str) -> str:
    return reference.replace('text.removesuffix("\\n")', "text")


@rejected("ShardedStream", by="test_lines")
def stripped(reference: str) -> str:
    return reference.replace('text.removesuffix("\\n")', "text.strip()")


@rejected("ShardedStream", by="test_lines")
def last_character_cut_off(reference: str) -> str:
    return reference.replace('text.removesuffix("\\n")', "text[:-1]")


@rejected("ShardedStream", by="test_lines")
def empty_lines_left_out(reference: str) -> str:
    return reference.replace(
        "                for text in file:\n",
        '                for text in filter(lambda t: t != "\\n", file):\n',
    )


@rejected("ShardedStream", by="test_repeatable", says="goes on where")
class GeneratorInInit(ShardedStream):
    def __init__(self, files, buffer, seed):
        super().__init__(files, buffer, seed)
        self.draw = random.Random(seed)

    def __iter__(self):
        lines = list(super().__iter__())
        for start in range(0, len(lines), self.buffer):
            chunk = lines[start : start + self.buffer]
            self.draw.shuffle(chunk)
            yield from chunk


@rejected("ShardedStream", by="test_repeatable", says="from a global generator")
def global_draws(reference: str) -> str:
    return reference.replace(
        'draw = random.Random(f"{self.seed} {self.epoch} {worker}")', "draw = random"
    )


@rejected("ShardedStream", by="test_repeatable", says="changes the global state of random")
class SeedsTheGlobalGenerator(ShardedStream):
    def __iter__(self):
        info = get_worker_info()
        random.seed(f"{self.seed} {self.epoch} {info and info.id}")
        lines = list(super().__iter__())
        for start in range(0, len(lines), self.buffer):
            chunk = lines[start : start + self.buffer]
            random.shuffle(chunk)
            yield from chunk


@rejected("ShardedStream", by="test_repeatable", says="depends on the state of a global")
def seeded_by_torch(reference: str) -> str:
    return reference.replace("{self.seed} {self.epoch}", "{torch.initial_seed()} {self.epoch}")


@rejected("ShardedStream", by="test_repeatable", says="get_worker_info")
def seed_of_the_worker_info(reference: str) -> str:
    return reference.replace(
        "{self.epoch} {worker}", "{self.epoch} {info.seed if info is not None else 0}"
    )


@rejected("ShardedStream", by="test_shuffled", says="in file order")
class NeverShuffled(ShardedStream):
    def __init__(self, files, buffer, seed):
        super().__init__(files, 1, seed)


@rejected("ShardedStream", by="test_shuffled", says="set_epoch has no effect")
def the_epoch_is_ignored(reference: str) -> str:
    return reference.replace("{self.seed} {self.epoch} {worker}", "{self.seed} {worker}")


@rejected("ShardedStream", by="test_shuffled", says="the seeds 0 and 1")
def the_seed_is_ignored(reference: str) -> str:
    return reference.replace("{self.seed} {self.epoch} {worker}", "{self.epoch} {worker}")


@rejected("ShardedStream", by="test_workers_differ", says="same way")
def the_worker_is_ignored(reference: str) -> str:
    return reference.replace("{self.seed} {self.epoch} {worker}", "{self.seed} {self.epoch}")


@rejected("ShardedStream", by="test_lines", says="0 times in the files")
class AnEmptyFileHasALine(ShardedStream):
    def __iter__(self):
        for path in self.files:
            yield from path.read_text().removesuffix("\n").split("\n")


@rejected("ShardedStream", by="test_buffer_of_one")
def shuffles_the_files(reference: str) -> str:
    return reference.replace(
        "in self.files[worker::workers]:",
        "in draw.sample(m := self.files[worker::workers], len(m)):",
    )


@rejected("ShardedStream", by="test_buffer_of_one")
def sorts_the_files(reference: str) -> str:
    return reference.replace("self.files = files\n", "self.files = sorted(files)\n")


@rejected("ShardedStream", by="test_buffer_of_one")
def one_line_more_in_the_buffer(reference: str) -> str:
    return reference.replace("self.buffer = buffer\n", "self.buffer = buffer + 1\n")


@rejected("ShardedStream", by="test_opened_when_needed", says="it needs the first one only")
class OpensAllAtOnce(ShardedStream):
    def __iter__(self):
        files = [open(path) for path in self.files]
        for file in files:
            file.close()
        return super().__iter__()


@rejected("ShardedStream", by="test_opened_when_needed", says="in __init__")
class OpensInInit(ShardedStream):
    def __init__(self, files, buffer, seed):
        super().__init__(files, buffer, seed)
        self.count = sum(path.read_text().count("\n") for path in files)


@rejected(
    "ShardedStream", by=("test_opened_when_needed", "test_buffer_is_bounded"), says="first one only"
)
class ShufflesEverything(ShardedStream):
    def __init__(self, files, buffer, seed):
        super().__init__(files, buffer if buffer == 1 else 10**6, seed)


@rejected("ShardedStream", by="test_buffer_is_bounded", says="were held")
class ShufflesAFile(ShardedStream):
    def __init__(self, files, buffer, seed):
        super().__init__(files, 1, seed)
        self.shuffled = buffer > 1

    def __iter__(self):
        info = get_worker_info()
        draw = random.Random(f"{self.seed} {self.epoch} {info and info.id}")
        mine = self.files[info.id :: info.num_workers] if info else self.files
        for path in mine:
            lines = path.read_text().removesuffix("\n").split("\n")
            if self.shuffled:
                draw.shuffle(lines)
            yield from lines


# --- 6 ------------------------------------------------------------------------------------------


@accepted("ResumableLoader")
class OneCounter(ResumableLoader):
    """The number of batches handed out since the beginning."""

    def __init__(self, dataset, batch_size, seed, collate_fn=default_collate):
        self.dataset, self.batch_size = dataset, batch_size
        self.seed, self.collate_fn = seed, collate_fn
        self.count = 0

    def __iter__(self):
        n = len(self.dataset)
        per_epoch = math.ceil(n / self.batch_size)
        epoch, first = divmod(self.count, per_epoch)
        order = list(range(n))
        random.Random(f"{self.seed}-{epoch}").shuffle(order)
        for place in range(first, per_epoch):
            self.count += 1
            some = order[place * self.batch_size :][: self.batch_size]
            yield self.collate_fn([self.dataset[index] for index in some])

    def state_dict(self):
        return {"batches": self.count}

    def load_state_dict(self, state):
        self.count = state["batches"]


@accepted("ResumableLoader")
class WithADataLoader(ResumableLoader):
    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.dataset)).tolist()
        rest = Subset(self.dataset, order[self.position * self.batch_size :])
        loader = DataLoader(
            rest, self.batch_size, collate_fn=self.collate_fn, generator=torch.Generator()
        )
        for batch in loader if len(rest) else ():
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0


class Rest:
    """An iterator that writes back where its loader stands."""

    def __init__(self, loader):
        self.loader = loader
        draw = torch.Generator().manual_seed(loader.seed * 7919 + loader.epoch)
        order = torch.randperm(len(loader.dataset), generator=draw)
        self.parts = order.split(loader.batch_size)

    def __iter__(self):
        return self

    def __next__(self):
        state = self.loader.state
        if state["batch"] >= len(self.parts):
            state["batch"] = 0
            state["epoch"] += 1
            self.parts = ()
            raise StopIteration
        part = self.parts[state["batch"]]
        state["batch"] += 1
        return self.loader.collate_fn([self.loader.dataset[int(index)] for index in part])


@accepted("ResumableLoader")
class WithAnIterator:
    def __init__(self, dataset, batch_size, seed, collate_fn=default_collate):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.collate_fn = collate_fn
        self.state = {"epoch": 0, "batch": 0}

    @property
    def epoch(self):
        return self.state["epoch"]

    def __iter__(self):
        return Rest(self)

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = copy.deepcopy(state)


@accepted("ResumableLoader")
class NextEpochAtTheBorder(ResumableLoader):
    """The epoch is over as soon as its last batch is handed out."""

    def __iter__(self):
        n, size = len(self.dataset), self.batch_size
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(n, generator=draw).tolist()
        for start in range(self.position, n, size):
            self.position = start + size
            if self.position >= n:
                self.epoch, self.position = self.epoch + 1, 0
            yield self.collate_fn([self.dataset[i] for i in order[start : start + size]])


@accepted("ResumableLoader")
class WithASampler(ResumableLoader):
    """A sampler that is told where to start, and a DataLoader round it."""

    class Order(Sampler):
        def __init__(self, size, seed):
            self.size, self.seed, self.epoch, self.start = size, seed, 0, 0

        def __iter__(self):
            draw = torch.Generator().manual_seed(self.seed ^ (self.epoch << 20))
            yield from torch.randperm(self.size, generator=draw).tolist()[self.start :]

        def __len__(self):
            return self.size - self.start

    def __init__(self, dataset, batch_size, seed, collate_fn=default_collate):
        self.order = self.Order(len(dataset), seed)
        self.size = batch_size
        self.loader = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=self.order,
            collate_fn=collate_fn,
            generator=torch.Generator(),
        )

    def __iter__(self):
        for batch in self.loader:
            self.order.start = min(self.order.start + self.size, self.order.size)
            yield batch
        self.order.epoch += 1
        self.order.start = 0

    def state_dict(self):
        return {"epoch": self.order.epoch, "start": self.order.start}

    def load_state_dict(self, state):
        self.order.epoch, self.order.start = state["epoch"], state["start"]


COUNT = "            self.position += 1\n"
YIELD = "            yield self.collate_fn(samples)\n"


@rejected("ResumableLoader", by="test_no_replays", says="thrown away")
class ReplaysTheBatches(ResumableLoader):
    def __init__(self, dataset, batch_size, seed, collate_fn=default_collate):
        super().__init__(dataset, batch_size, seed, collate_fn)
        self.done = self.skip = 0

    def __iter__(self):
        while self.skip >= (per_epoch := -(-len(self.dataset) // self.batch_size)):
            self.epoch, self.skip = self.epoch + 1, self.skip - per_epoch
        self.position = 0
        for batch in super().__iter__():
            if self.skip:
                self.skip -= 1
                continue
            self.done += 1
            yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = self.skip = state["done"]


@rejected("ResumableLoader", by="test_no_replays", says="Skip in the order")
class ReplaysAllEpochs(ResumableLoader):
    def load_state_dict(self, state):
        while (self.epoch, self.position) < (state["epoch"], state["position"]):
            for _ in self:
                if (self.epoch, self.position) == (state["epoch"], state["position"]):
                    return


@rejected("ResumableLoader", by="test_resumed", says="shuffled anew")
class ReshufflesOnResume(ResumableLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.seed = self.seed * 31 + 1000 + self.position


@rejected("ResumableLoader", by="test_resumed", says="begun anew")
class RemembersTheEpochOnly(ResumableLoader):
    def load_state_dict(self, state):
        self.epoch = state["epoch"]


@rejected("ResumableLoader", by="test_resumed", says="are others")
class EpochLost(ResumableLoader):
    """The rest is right, but the epochs are counted from the resumption."""

    def __iter__(self):
        shift = getattr(self, "shift", 0)
        yield from super().__iter__()
        self.epoch += shift
        self.shift = 0

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.shift = 5


@rejected("ResumableLoader", by="test_resumed", says="comes again")
def counted_after_the_yield(reference: str) -> str:
    return reference.replace(COUNT + YIELD, YIELD + COUNT)


@rejected("ResumableLoader", by="test_resumed", says="left out")
class OneTooFar(ResumableLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.position += 1


@rejected("ResumableLoader", by="test_resumed", says="begun anew")
class LoadsNothing(ResumableLoader):
    def load_state_dict(self, state):
        pass


@rejected("ResumableLoader", by="test_resumed_at_the_border")
class OffByOneAtTheBorder(ResumableLoader):
    """Takes the end of an epoch for the beginning of the same one."""

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.position = state["position"] % -(-len(self.dataset) // self.batch_size)


@rejected("ResumableLoader", by="test_resumed_at_the_border", says="one batch is left out")
class SkipsTheFirstOfTheNext(ResumableLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.position * self.batch_size >= len(self.dataset):
            self.epoch, self.position = self.epoch + 1, 1


@rejected("ResumableLoader", by="test_resumed_at_the_border", says="after the loop had ended")
def position_stays_at_the_end(reference: str) -> str:
    return reference.replace(
        'return {"epoch": self.epoch, "position": self.position}',
        'return {"epoch": max(self.epoch - (self.position == 0), 0), "position": self.position}',
    )


@rejected("ResumableLoader", by="test_resumed_twice", says="for a second time")
class CountsSinceTheResumption(ResumableLoader):
    skipped = 0

    def state_dict(self):
        return {"epoch": self.epoch, "position": max(self.position - self.skipped, 0)}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.skipped = self.position

    def __iter__(self):
        yield from super().__iter__()
        self.skipped = 0


@rejected("ResumableLoader", by="test_state_stays", says="while the loader went on")
class SharesItsState(ResumableLoader):
    def __init__(self, dataset, batch_size, seed, collate_fn=default_collate):
        self.state = {"epoch": 0, "position": 0}
        super().__init__(dataset, batch_size, seed, collate_fn)

    @property
    def epoch(self):
        return self.state["epoch"]

    @epoch.setter
    def epoch(self, value):
        self.state["epoch"] = value

    @property
    def position(self):
        return self.state["position"]

    @position.setter
    def position(self, value):
        self.state["position"] = value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = dict(state)


@rejected("ResumableLoader", by="test_state_stays", says="dict that was loaded")
class KeepsTheLoadedDict(ResumableLoader):
    state = None

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.state = state

    def __iter__(self):
        for batch in super().__iter__():
            if self.state is not None:
                self.state.update(self.state_dict())
            yield batch


@rejected(
    "ResumableLoader",
    by="test_small_state",
    says="needn't be stored",
)
class StoresTheOrder(ResumableLoader):
    def state_dict(self):
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.dataset), generator=draw).tolist()
        return {**super().state_dict(), "order": order}


@rejected("ResumableLoader", by="test_small_state", says="JSON")
class StoresTheGenerator(ResumableLoader):
    def state_dict(self):
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        return {**super().state_dict(), "generator": draw.get_state()}


@rejected("ResumableLoader", by="test_small_state", says="not a dict")
class AStateOfTwoNumbers(ResumableLoader):
    def state_dict(self):
        return [self.epoch, self.position]

    def load_state_dict(self, state):
        self.epoch, self.position = state


@rejected("ResumableLoader", by="test_every_sample_once", says="is dropped")
def drops_the_smaller_batch(reference: str) -> str:
    return reference.replace(
        "while self.position * self.batch_size < size:",
        "while (self.position + 1) * self.batch_size <= size:",
    )


@rejected("ResumableLoader", by="test_every_sample_once", says="second iter()")
def position_is_never_reset(reference: str) -> str:
    return reference.replace(
        "        self.epoch += 1\n        self.position = 0\n", "        self.epoch += 1\n"
    )


@rejected("ResumableLoader", by="test_every_sample_once", says="once")
def drawn_with_replacement(reference: str) -> str:
    return reference.replace(
        "order = torch.randperm(size, generator=generator)",
        "order = torch.randint(size, (size,), generator=generator)",
    )


@rejected("ResumableLoader", by="test_epochs_differ", says="the same order; each is shuffled anew")
def one_order_for_all_epochs(reference: str) -> str:
    return reference.replace(
        "manual_seed(self.seed + self.epoch)\n        order = torch.randperm(size",
        "manual_seed(self.seed)\n        order = torch.randperm(size",
    )


@rejected("ResumableLoader", by="test_epochs_differ", says="the seeds 0 and 7")
def one_order_for_all_seeds(reference: str) -> str:
    return reference.replace(
        "manual_seed(self.seed + self.epoch)\n        order = torch.randperm(size",
        "manual_seed(self.epoch)\n        order = torch.randperm(size",
    )


@rejected("ResumableLoader", by="test_epochs_differ", says="isn't shuffled")
def no_shuffle(reference: str) -> str:
    return reference.replace(
        "order = torch.randperm(size, generator=generator).tolist()", "order = list(range(size))"
    )


@rejected("ResumableLoader", by="test_epochs_differ", says="the epochs 0 and 2")
def two_orders_in_turn(reference: str) -> str:
    return reference.replace(
        "manual_seed(self.seed + self.epoch)\n        order = torch.randperm(size",
        "manual_seed(self.seed + self.epoch % 2)\n        order = torch.randperm(size",
    )


@rejected("ResumableLoader", by="test_left_early", says="begun anew")
class EveryIterStartsOver(ResumableLoader):
    def __iter__(self):
        self.position = 0
        yield from super().__iter__()


@rejected("ResumableLoader", by="test_left_early", says="shuffled anew")
class EveryIterIsAnEpoch(ResumableLoader):
    calls = -1

    def __iter__(self):
        self.calls += 1
        self.epoch, self.position = self.calls, 0
        yield from super().__iter__()


@rejected("ResumableLoader", by="test_left_early", says="the number of batches left")
class WithoutEnd(ResumableLoader):
    def __iter__(self):
        if self.position:
            yield from super().__iter__()
        yield from super().__iter__()


@rejected("ResumableLoader", by="test_collate")
def collate_is_ignored(reference: str) -> str:
    return reference.replace("yield self.collate_fn(samples)", "yield default_collate(samples)")


@rejected("ResumableLoader", by="test_collate", says="list of samples")
def collated_twice(reference: str) -> str:
    return reference.replace(
        "yield self.collate_fn(samples)", "yield self.collate_fn(default_collate(samples))"
    )


@rejected("ResumableLoader", by="test_global_generators", says="given a generator")
class ThroughADataLoader(ResumableLoader):
    def __iter__(self):
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.dataset), generator=draw).tolist()
        rest = Subset(self.dataset, order[self.position * self.batch_size :])
        for batch in DataLoader(rest, self.batch_size, collate_fn=self.collate_fn):
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0


@rejected("ResumableLoader", by="test_global_generators", says="changes the global state")
def seeds_everything(reference: str) -> str:
    return reference.replace(
        "generator = torch.Generator().manual_seed(self.seed + self.epoch)\n        order = torch"
        ".randperm(size, generator=generator)",
        "torch.manual_seed(self.seed + self.epoch)\n        order = torch.randperm(size)",
    )
