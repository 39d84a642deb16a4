"""Day 12: from files to batches, without leaks, and the same again when asked."""

import csv
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate, get_worker_info


class TableDataset(Dataset[tuple[Tensor, Tensor]]):
    """The rows of a CSV with a header; an empty cell becomes its column's mean.

    Args:
        path: the file; its cells are numbers or empty.
        target: the column of the labels, which are whole numbers and never missing.
        stats: the mean of each feature column by name; None means those of this file.

    Attributes:
        stats: the means that are used, column name -> float.
    """

    stats: dict[str, float]

    def __init__(self, path: Path, target: str, stats: dict[str, float] | None = None) -> None:
        ### BEGIN SOLUTION 1: read the file
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != target]
        table = torch.tensor(
            [[float(row[name] or "nan") for name in names] for row in rows], dtype=torch.float64
        )
        if stats is None:
            stats = dict(zip(names, table.nanmean(0).tolist(), strict=True))
        self.stats = stats
        means = torch.tensor([stats[name] for name in names], dtype=torch.float64)
        self.features = torch.where(table.isnan(), means, table).float()
        self.labels = torch.tensor([int(row[target]) for row in rows])
        ### END SOLUTION

    def __len__(self) -> int:
        """The number of rows."""
        ### BEGIN SOLUTION 1: how many
        return len(self.labels)
        ### END SOLUTION

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """
        Args:
            index: from -len to len - 1.

        Returns:
            features (feat,) float32 and label () int64.

        Raises:
            IndexError: there is no such row.
        """
        ### BEGIN SOLUTION 1: one row
        return self.features[index], self.labels[index]
        ### END SOLUTION


def stratified_split(
    labels: Tensor, frac: float, groups: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Split samples into train and val, class by class, or group by group.

    Args:
        labels: (samples,) int64.
        frac: the share of val, between 0 and 1.
        groups: (samples,) int64; samples of one group stay on one side. None: no groups.
        seed: decides the split.

    Returns:
        train, val: indices, int64, each sorted.
    """
    ### BEGIN SOLUTION 2: which samples go to val
    generator = torch.Generator().manual_seed(seed)
    in_val = torch.zeros(len(labels), dtype=torch.bool)
    if groups is None:
        for label in labels.unique():
            members = (labels == label).nonzero()[:, 0]
            n = len(members)
            count = min(max(round(frac * n), 1), n - 1)
            in_val[members[torch.randperm(n, generator=generator)[:count]]] = True
    else:
        names = groups.unique()
        for name in names[torch.randperm(len(names), generator=generator)]:
            if in_val.sum() < frac * len(labels):
                in_val[groups == name] = True
    return (~in_val).nonzero()[:, 0], in_val.nonzero()[:, 0]
    ### END SOLUTION


def pad_collate(batch: list[tuple[Tensor, int]], pad: int = 0) -> dict[str, Tensor]:
    """Make one batch of samples of different lengths.

    Args:
        batch: samples, each tokens (length,) of any integer dtype, and a label.
        pad: what stands behind the end of the shorter ones.

    Returns:
        tokens (batch, max_len) int64, mask (batch, max_len) bool with True for a real token,
        length (batch,) int64, label (batch,) int64.
    """
    ### BEGIN SOLUTION 3: the four tensors
    length = torch.tensor([len(tokens) for tokens, _ in batch])
    tokens = pad_sequence(
        [tokens.long() for tokens, _ in batch], batch_first=True, padding_value=pad
    )
    return {
        "tokens": tokens,
        "mask": torch.arange(tokens.shape[1]) < length[:, None],
        "length": length,
        "label": torch.tensor([label for _, label in batch]),
    }
    ### END SOLUTION


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of samples of similar length, each batch within a budget of padded tokens.

    Args:
        lengths: of every sample, each at least 1.
        max_tokens: the budget, len(batch) times the longest of the batch; a sample that is
            longer on its own is a batch of one.
        shuffle: whether the order of the batches changes with seed and epoch.
        seed: decides the order, together with the epoch.
    """

    def __init__(self, lengths: list[int], max_tokens: int, shuffle: bool, seed: int) -> None:
        ### BEGIN SOLUTION 4: what is prepared
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.batches: list[list[int]] = []
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[index] > max_tokens:
                self.batches.append(batch)
                batch = []
            batch.append(index)
        if batch:
            self.batches.append(batch)
        ### END SOLUTION

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterations to come; it is 0 at first."""
        ### BEGIN SOLUTION 4: the epoch
        self.epoch = epoch
        ### END SOLUTION

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the current epoch, lists of indices."""
        ### BEGIN SOLUTION 4: the batches in their order
        order = range(len(self.batches))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(self.batches), generator=generator).tolist()
        for place in order:
            yield self.batches[place]
        ### END SOLUTION

    def __len__(self) -> int:
        """The number of batches of the current epoch."""
        ### BEGIN SOLUTION 4: how many batches
        return len(self.batches)
        ### END SOLUTION


class ShardedStream(IterableDataset[str]):
    """The lines of many files, shared out among the workers and shuffled by a buffer.

    Args:
        files: text files; worker w of n reads files[w::n], in that order.
        buffer: how many lines are held for shuffling; 1 keeps the order.
        seed: decides the order, together with the epoch and the worker.
    """

    def __init__(self, files: list[Path], buffer: int, seed: int) -> None:
        ### BEGIN SOLUTION 5: what the stream remembers
        self.files = files
        self.buffer = buffer
        self.seed = seed
        self.epoch = 0
        ### END SOLUTION

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterations to come; it is 0 at first."""
        ### BEGIN SOLUTION 5: the epoch
        self.epoch = epoch
        ### END SOLUTION

    def __iter__(self) -> Iterator[str]:
        """Yield this worker's lines, without the newline at their end."""
        ### BEGIN SOLUTION 5: read and shuffle
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        draw = random.Random(f"{self.seed} {self.epoch} {worker}")
        held: list[str] = []
        for path in self.files[worker::workers]:
            with path.open() as file:
                for text in file:
                    line = text.removesuffix("\n")
                    if len(held) == self.buffer:
                        place = draw.randrange(self.buffer)
                        line, held[place] = held[place], line
                        yield line
                    else:
                        held.append(line)
        draw.shuffle(held)
        yield from held
        ### END SOLUTION


class ResumableLoader:
    """Shuffled batches, epoch after epoch, that go on where a saved state was taken.

    Args:
        dataset: has `__len__` and `__getitem__`.
        batch_size: samples of a batch; the last one of an epoch may be smaller.
        seed: decides the order of every epoch, together with the epoch's number.
        collate_fn: makes a batch of a list of samples.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        seed: int,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        ### BEGIN SOLUTION 6: what the loader remembers
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.collate_fn = collate_fn
        self.epoch = 0
        self.position = 0
        ### END SOLUTION

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches that are left of the current epoch; the next one follows it."""
        ### BEGIN SOLUTION 6: the rest of the epoch
        size = len(self.dataset)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(size, generator=generator).tolist()
        while self.position * self.batch_size < size:
            start = self.position * self.batch_size
            samples = [self.dataset[index] for index in order[start : start + self.batch_size]]
            self.position += 1
            yield self.collate_fn(samples)
        self.epoch += 1
        self.position = 0
        ### END SOLUTION

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: the batches handed out so far, as a small JSON-able dict."""
        ### BEGIN SOLUTION 6: the state
        return {"epoch": self.epoch, "position": self.position}
        ### END SOLUTION

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that the state counts.

        Args:
            state: of a loader with the same data set, batch size and seed; not changed.
        """
        ### BEGIN SOLUTION 6: back to the state
        self.epoch = state["epoch"]
        self.position = state["position"]
        ### END SOLUTION
