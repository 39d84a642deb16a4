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
        # TODO 1: read the file
        raise NotImplementedError("day12 T1: TableDataset")
        # END TODO

    def __len__(self) -> int:
        """The number of rows."""
        # TODO 1: how many
        raise NotImplementedError("day12 T1: TableDataset")
        # END TODO

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """
        Args:
            index: from -len to len - 1.

        Returns:
            features (feat,) float32 and label () int64.

        Raises:
            IndexError: there is no such row.
        """
        # TODO 1: one row
        raise NotImplementedError("day12 T1: TableDataset")
        # END TODO


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
    # TODO 2: which samples go to val
    raise NotImplementedError("day12 T2: stratified_split")
    # END TODO


def pad_collate(batch: list[tuple[Tensor, int]], pad: int = 0) -> dict[str, Tensor]:
    """Make one batch of samples of different lengths.

    Args:
        batch: samples, each tokens (length,) of any integer dtype, and a label.
        pad: what stands behind the end of the shorter ones.

    Returns:
        tokens (batch, max_len) int64, mask (batch, max_len) bool with True for a real token,
        length (batch,) int64, label (batch,) int64.
    """
    # TODO 3: the four tensors
    raise NotImplementedError("day12 T3: pad_collate")
    # END TODO


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
        # TODO 4: what is prepared
        raise NotImplementedError("day12 T4: BucketBatchSampler")
        # END TODO

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterations to come; it is 0 at first."""
        # TODO 4: the epoch
        raise NotImplementedError("day12 T4: BucketBatchSampler")
        # END TODO

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the current epoch, lists of indices."""
        # TODO 4: the batches in their order
        raise NotImplementedError("day12 T4: BucketBatchSampler")
        # END TODO

    def __len__(self) -> int:
        """The number of batches of the current epoch."""
        # TODO 4: how many batches
        raise NotImplementedError("day12 T4: BucketBatchSampler")
        # END TODO


class ShardedStream(IterableDataset[str]):
    """The lines of many files, shared out among the workers and shuffled by a buffer.

    Args:
        files: text files; worker w of n reads files[w::n], in that order.
        buffer: how many lines are held for shuffling; 1 keeps the order.
        seed: decides the order, together with the epoch and the worker.
    """

    def __init__(self, files: list[Path], buffer: int, seed: int) -> None:
        # TODO 5: what the stream remembers
        raise NotImplementedError("day12 T5: ShardedStream")
        # END TODO

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterations to come; it is 0 at first."""
        # TODO 5: the epoch
        raise NotImplementedError("day12 T5: ShardedStream")
        # END TODO

    def __iter__(self) -> Iterator[str]:
        """Yield this worker's lines, without the newline at their end."""
        # TODO 5: read and shuffle
        raise NotImplementedError("day12 T5: ShardedStream")
        # END TODO


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
        # TODO 6: what the loader remembers
        raise NotImplementedError("day12 T6: ResumableLoader")
        # END TODO

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches that are left of the current epoch; the next one follows it."""
        # TODO 6: the rest of the epoch
        raise NotImplementedError("day12 T6: ResumableLoader")
        # END TODO

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: the batches handed out so far, as a small JSON-able dict."""
        # TODO 6: the state
        raise NotImplementedError("day12 T6: ResumableLoader")
        # END TODO

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that the state counts.

        Args:
            state: of a loader with the same data set, batch size and seed; not changed.
        """
        # TODO 6: back to the state
        raise NotImplementedError("day12 T6: ResumableLoader")
        # END TODO
