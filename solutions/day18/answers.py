"""Answers to day 18 that its suite must accept or reject."""

import itertools
import queue
import statistics
import threading
import time
from time import perf_counter

import numpy as np
import torch
from dataloader_speed import *
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    get_worker_info,
)

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("loader_share")
def with_a_clock_of_its_own_name(loader, step, n, sync=None):
    sync = sync or (lambda: None)
    times = []

    def mark():
        sync()
        times.append(perf_counter())

    batches = iter_after(mark, loader)
    count = 0
    while count < n:
        try:
            batch = next(batches)
        except StopIteration:
            break
        mark()
        step(batch)
        mark()
        count += 1
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    waits, steps = gaps[0::2], gaps[1::2]
    wait, compute = sum(waits[1:]), sum(steps)
    return {
        "batches": count,
        "startup_s": waits[0] if waits else 0.0,
        "wait_s": wait,
        "compute_s": compute,
        "share": wait / max(wait + compute, 1e-12),
    }


def iter_after(mark, loader):
    mark()
    return iter(loader)


@accepted("loader_share")
def four_readings_a_batch(loader, step, n, sync=None):
    def now():
        if sync:
            sync()
        return time.perf_counter()

    result = dict(startup_s=0.0, wait_s=0.0, compute_s=0.0, share=0.0, batches=0)
    start = now()
    batches = iter(loader)
    end = object()
    while result["batches"] < n:
        batch = next(batches, end)
        waited = now() - start
        if batch is end:
            break
        result["wait_s" if result["batches"] else "startup_s"] += waited
        start = now()
        step(batch)
        result["compute_s"] += now() - start
        result["batches"] += 1
        start = now()
    busy = result["wait_s"] + result["compute_s"]
    if busy > 0:
        result["share"] = result["wait_s"] / busy
    return result


@accepted("loader_share")
class Stopwatch:
    def __new__(cls, loader, step, n, sync=None):
        self = super().__new__(cls)
        self.sync = sync
        self.last = self.lap = None
        self.read()
        waits, steps = [], []
        for batch in itertools.islice(loader, n):
            waits.append(self.read())
            step(batch)
            steps.append(self.read())
        startup, wait, compute = sum(waits[:1]), sum(waits[1:]), sum(steps)
        return dict(
            startup_s=float(startup),
            wait_s=float(wait),
            compute_s=float(compute),
            share=wait / (wait + compute) if wait or compute else 0.0,
            batches=len(steps),
        )

    def read(self):
        if self.sync is not None:
            self.sync()
        now = time.perf_counter()
        lap, self.last = now - (self.last or now), now
        return lap


@rejected("loader_share", by=("test_startup_apart", "test_five_values"), says="start-up")
def start_up_in_the_share(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    wait = result["wait_s"] + result["startup_s"]
    busy = wait + result["compute_s"]
    return {**result, "share": wait / busy if busy else 0.0}


@rejected("loader_share", by=("test_five_values", "test_startup_apart"), says="includes the start")
def start_up_in_the_wait(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "wait_s": result["wait_s"] + result["startup_s"]}


def loader_share_of_the_reference(loader, step, n, sync=None):
    def now():
        if sync is not None:
            sync()
        return time.perf_counter()

    startup = wait = compute = 0.0
    count = 0
    before = now()
    batches = iter(loader)
    while count < n:
        try:
            batch = next(batches)
        except StopIteration:
            break
        there = now()
        if count:
            wait += there - before
        else:
            startup = there - before
        step(batch)
        before = now()
        compute += before - there
        count += 1
    return {
        "startup_s": startup,
        "wait_s": wait,
        "compute_s": compute,
        "share": wait / (wait + compute) if wait + compute else 0.0,
        "batches": count,
    }


@rejected("loader_share", by="test_startup_apart", says="iter(loader)")
def clock_starts_after_iter(loader, step, n, sync=None):
    return loader_share_of_the_reference(iter(loader), step, n, sync)


@rejected("loader_share", by=("test_one_step_a_batch", "test_five_values"), says="step")
def steps_twice(loader, step, n, sync=None):
    def both(batch):
        step(batch)
        step(batch)

    return loader_share_of_the_reference(loader, both, n, sync)


@rejected("loader_share", by="test_five_values", says="twice")
def counts_the_steps_twice(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "compute_s": 2 * result["compute_s"]}


@rejected("loader_share", by=("test_five_values", "test_not_one_too_many"))
def for_loop_hides_the_wait(loader, step, n, sync=None):
    sync = sync or (lambda: None)
    compute, count = 0.0, 0
    for batch in loader:
        if count == n:
            break
        sync()
        start = time.perf_counter()
        step(batch)
        sync()
        compute += time.perf_counter() - start
        count += 1
    return {
        "startup_s": 0.0,
        "wait_s": 0.0,
        "compute_s": compute,
        "share": 0.0,
        "batches": count,
    }


@rejected("loader_share", by="test_not_one_too_many", says="thrown away")
def looks_at_one_more(loader, step, n, sync=None):
    batches = iter(loader)

    def limited():
        for count, batch in enumerate(batches):
            if count == n:
                return
            yield batch

    return loader_share_of_the_reference(limited(), step, n + 1, sync)


@rejected("loader_share", by="test_fewer_than_n")
def expects_n_batches(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "batches": n}


@rejected("loader_share", by="test_fewer_than_n")
def trips_over_the_end(loader, step, n, sync=None):
    batches = iter(loader)
    return loader_share_of_the_reference((next(batches) for _ in range(n)), step, n, sync)


@rejected("loader_share", by="test_no_time_at_all")
def divides_by_zero(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "share": result["wait_s"] / (result["wait_s"] + result["compute_s"])}


@rejected("loader_share", by="test_five_values", says="per cent")
def share_in_per_cent(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "share": 100 * result["share"]}


@rejected("loader_share", by="test_five_values", says="compute_s alone")
def share_of_the_steps(loader, step, n, sync=None):
    result = loader_share_of_the_reference(loader, step, n, sync)
    return {**result, "share": result["wait_s"] / (result["compute_s"] or 1.0)}


@rejected("loader_share", by="test_one_step_a_batch")
def steps_in_reverse(loader, step, n, sync=None):
    batches = list(loader)[:n]
    return loader_share_of_the_reference(batches[::-1], step, n, sync)


@rejected("loader_share", by="test_sync", says="no sync right before")
def never_syncs(loader, step, n, sync=None):
    return loader_share_of_the_reference(loader, step, n)


@rejected("loader_share", by="test_sync", says="no sync right before")
def syncs_after_the_step_alone(loader, step, n, sync=None):
    def synced(batch):
        step(batch)
        if sync is not None:
            sync()

    return loader_share_of_the_reference(loader, synced, n)


# --- 2 ------------------------------------------------------------------------------------------


@accepted("make_loader")
def with_a_method_for_many(reference: str) -> str:
    text = reference.replace(
        "        return len(self.y)\n",
        "        return len(self.y)\n\n"
        "    def __getitems__(self, indices):\n"
        "        return self.X[indices], self.y[indices]\n",
    )
    return text + (
        "\n\ndef as_it_is(batch):\n"
        "    return batch\n"
        "\n\ndef make_loader(X, y, bs, seed, drop_last=False):\n"
        "    return DataLoader(\n"
        "        FastTable(X, y), batch_size=bs, shuffle=True, drop_last=drop_last,\n"
        "        collate_fn=as_it_is, generator=torch.Generator().manual_seed(seed),\n"
        "    )\n"
    )


class TensorBatches(Sampler):
    def __init__(self, rows, bs, seed, drop_last):
        self.rows, self.bs, self.drop_last = rows, bs, drop_last
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.rows // self.bs if self.drop_last else -(-self.rows // self.bs)

    def __iter__(self):
        parts = torch.randperm(self.rows, generator=self.generator).split(self.bs)
        return iter(parts[: len(self)])


@accepted("make_loader")
def with_a_sampler_of_tensors(X, y, bs, seed, drop_last=False):
    data = FastTable(X, y)
    return DataLoader(data, sampler=TensorBatches(len(data), bs, seed, drop_last), batch_size=None)


class BySelecting(Dataset):
    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return self.X.shape[0]

    def __getitems__(self, rows):
        rows = torch.as_tensor(rows)
        return [self.X.index_select(0, rows), self.y.index_select(0, rows)]


class CountedEpochs(Sampler):
    def __init__(self, rows, seed):
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self):
        return self.rows

    def __iter__(self):
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        self.epoch += 1
        yield from torch.randperm(self.rows, generator=generator).tolist()


@accepted("make_loader")
def selecting_and_counting_epochs(X, y, bs, seed, drop_last=False):
    batches = BatchSampler(CountedEpochs(len(X), seed), bs, drop_last)
    return DataLoader(BySelecting(X, y), batch_sampler=batches, collate_fn=lambda pair: pair)


class WholeLoader(DataLoader):
    def __iter__(self):
        rows = len(self.dataset)
        order = torch.randperm(rows, generator=self.generator)
        for part in order.split(self.batch_size)[: len(self)]:
            yield self.dataset[part]


@accepted("make_loader")
def with_a_loader_of_its_own(X, y, bs, seed, drop_last=False):
    return WholeLoader(
        FastTable(X, y),
        batch_size=bs,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
    )


@accepted("make_loader")
def one_generator_for_both(X, y, bs, seed, drop_last=False):
    generator = torch.Generator()
    generator.manual_seed(seed)
    table = FastTable(X, y)
    rows = RandomSampler(table, generator=generator)
    batches = BatchSampler(rows, batch_size=bs, drop_last=drop_last)
    return DataLoader(table, sampler=batches, batch_size=None, generator=generator, num_workers=0)


@rejected("make_loader", by="test_new_order", says="same order")
def shuffles_once(X, y, bs, seed, drop_last=False):
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed)).tolist()
    return DataLoader(FastTable(X, y), batch_size=None, sampler=BatchSampler(order, bs, drop_last))


class OneOrder(Sampler):
    def __init__(self, rows, seed, order=None):
        self.rows, self.seed = rows, seed

    def __len__(self):
        return self.rows

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        return iter(torch.randperm(self.rows, generator=generator).tolist())


@rejected("make_loader", by="test_new_order", says="seeded anew")
def seeds_every_epoch_anew(X, y, bs, seed, drop_last=False):
    batches = BatchSampler(OneOrder(len(X), seed), bs, drop_last)
    return DataLoader(FastTable(X, y), batch_size=None, sampler=batches)


@rejected("make_loader", by="test_new_order", says="no shuffle")
def does_not_shuffle(X, y, bs, seed, drop_last=False):
    batches = BatchSampler(range(len(X)), bs, drop_last)
    return DataLoader(FastTable(X, y), batch_size=None, sampler=batches)


class ShuffledBatches(Sampler):
    def __init__(self, rows, bs, seed):
        self.parts = list(torch.arange(rows).split(bs))
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        order = torch.randperm(len(self.parts), generator=self.generator).tolist()
        return iter([self.parts[k] for k in order])


@rejected("make_loader", by="test_new_order", says="shuffle the rows")
def shuffles_the_batches(X, y, bs, seed, drop_last=False):
    return DataLoader(FastTable(X, y), batch_size=None, sampler=ShuffledBatches(len(X), bs, seed))


class ShuffledSlices(Dataset):
    def __init__(self, X, y, bs, seed, drop_last):
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        self.X, self.y, self.bs, self.drop_last = X[order], y[order], bs, drop_last

    def __len__(self):
        return len(self.X) // self.bs if self.drop_last else -(-len(self.X) // self.bs)

    def __getitem__(self, k):
        if k >= len(self):
            raise IndexError(k)
        part = slice(k * self.bs, (k + 1) * self.bs)
        return self.X[part], self.y[part]


@rejected("make_loader", by=("test_copies", "test_new_order"), says="views of what")
def hands_out_slices(X, y, bs, seed, drop_last=False):
    generator = torch.Generator().manual_seed(seed)
    data = ShuffledSlices(X, y, bs, seed, drop_last)
    return DataLoader(data, batch_size=None, shuffle=False, generator=generator)


@rejected("make_loader", by="test_copies", says="views of it")
def views_of_single_rows(reference: str) -> str:
    return reference.replace(
        "        return self.X[i], self.y[i]",
        "        if isinstance(i, list) and len(i) == 1:\n"
        "            return self.X[i[0] : i[0] + 1], self.y[i[0] : i[0] + 1]\n"
        "        return self.X[i], self.y[i]",
    )


@rejected("make_loader", by="test_seed", says="the same seed give different")
def ignores_the_seed(X, y, bs, seed, drop_last=False):
    table = FastTable(X, y)
    batches = BatchSampler(RandomSampler(table), bs, drop_last)
    return DataLoader(table, batch_size=None, sampler=batches)


@rejected("make_loader", by="test_seed")
def seeds_the_global_generator(X, y, bs, seed, drop_last=False):
    torch.manual_seed(seed)
    return ignores_the_seed_of(X, y, bs, drop_last)


def ignores_the_seed_of(X, y, bs, drop_last):
    table = FastTable(X, y)
    return DataLoader(
        table, batch_size=None, sampler=BatchSampler(RandomSampler(table), bs, drop_last)
    )


@rejected("make_loader", by="test_seed", says="isn't used")
def one_seed_for_all(X, y, bs, seed, drop_last=False):
    table = FastTable(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(0))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, drop_last))


@rejected("make_loader", by=("test_last_batch", "test_each_row_once"))
def loses_the_last_batch(X, y, bs, seed, drop_last=False):
    table = FastTable(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, True))


@rejected("make_loader", by="test_last_batch")
def never_drops_the_last(X, y, bs, seed, drop_last=False):
    table = FastTable(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, False))


class WithReplacement(Sampler):
    def __init__(self, rows, seed):
        self.rows = rows
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.rows

    def __iter__(self):
        return iter(torch.randint(self.rows, (self.rows,), generator=self.generator).tolist())


@rejected("make_loader", by="test_each_row_once", says="different ones")
def draws_with_replacement(X, y, bs, seed, drop_last=False):
    batches = BatchSampler(WithReplacement(len(X), seed), bs, drop_last)
    return DataLoader(FastTable(X, y), batch_size=None, sampler=batches)


class TwoOrders(Dataset):
    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.X[i], self.y[sorted(i)]


@rejected("make_loader", by="test_each_row_once", says="beside the y of another")
def parts_x_from_y(X, y, bs, seed, drop_last=False):
    table = TwoOrders(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, drop_last))


@rejected("make_loader", by=("test_fetched_whole",), says="24 times for 3 batches")
def row_by_row(X, y, bs, seed, drop_last=False):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        FastTable(X, y), batch_size=bs, shuffle=True, drop_last=drop_last, generator=generator
    )


class LoopsInside(TensorDataset):
    def __getitems__(self, rows):
        X, y = self.tensors
        return torch.stack([X[i] for i in rows]), torch.stack([y[i] for i in rows])


@rejected("make_loader", by="test_fetched_whole", says="each row is picked alone")
def loops_inside(X, y, bs, seed, drop_last=False):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        LoopsInside(X, y),
        batch_size=bs,
        shuffle=True,
        drop_last=drop_last,
        generator=generator,
        collate_fn=lambda pair: pair,
    )


class SlowSampler(Sampler):
    def __init__(self, rows, seed):
        self.rows = rows
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.rows

    def __iter__(self):
        for i in torch.randperm(self.rows, generator=self.generator):
            order = torch.arange(self.rows).roll(int(i)).sort().values.sort().values.sort().values
            yield int(i) + 0 * int(order.sum())


@rejected("make_loader", by="test_speed")
def much_work_for_the_order(X, y, bs, seed, drop_last=False):
    batches = BatchSampler(SlowSampler(len(X), seed), bs, drop_last)
    return DataLoader(FastTable(X, y), batch_size=None, sampler=batches)


@rejected("make_loader", by="test_batches")
def a_batch_too_deep(X, y, bs, seed, drop_last=False):
    table = FastTable(X, y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, sampler=BatchSampler(shuffled, bs, drop_last))


@rejected("make_loader", by="test_batches", says="float32; expected float64")
def all_in_single_precision(X, y, bs, seed, drop_last=False):
    table = FastTable(X.float(), y)
    shuffled = RandomSampler(table, generator=torch.Generator().manual_seed(seed))
    return DataLoader(table, batch_size=None, sampler=BatchSampler(shuffled, bs, drop_last))


@rejected("make_loader", by="test_items")
def items_of_one_row(reference: str) -> str:
    return reference.replace(
        "        return self.X[i], self.y[i]",
        "        i = [i] if isinstance(i, int) else i\n        return self.X[i], self.y[i]",
    )


@rejected("make_loader", by=("test_subset", "test_items"))
def only_lists(reference: str) -> str:
    return reference.replace(
        "        return self.X[i], self.y[i]",
        "        return self.X[list(i)], self.y[list(i)]",
    )


# --- 3 ------------------------------------------------------------------------------------------


@accepted("Augmented")
class SeededByTorchAlone(Dataset):
    def __init__(self, x):
        self.x, self.noise = x, None

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, i):
        if self.noise is None:
            self.noise = np.random.default_rng(torch.initial_seed())
        draws = self.noise.normal(size=tuple(self.x.shape[1:]))
        return self.x[i] + torch.from_numpy(np.asarray(draws)).to(self.x.dtype)


@accepted("Augmented")
def init_builds_the_generator(reference: str) -> str:
    return reference.replace(
        "    get_worker_info().dataset.noise = None",
        "    info = get_worker_info()\n    info.dataset.noise = np.random.default_rng(info.seed)",
    )


@accepted("Augmented")
class OldGenerator(Dataset):
    def __init__(self, x):
        self.x = x
        self.noise = None

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if self.noise is None:
            self.noise = np.random.RandomState(torch.initial_seed() % 2**32)
        row = self.x[i]
        noise = torch.empty_like(row)
        noise.copy_(torch.from_numpy(self.noise.randn(*row.shape)))
        return noise.add_(row)


@accepted("Augmented")
class KnowsItsProcess(Dataset):
    def __init__(self, x):
        self.x = x
        self.noise = self.seed = None

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        info = get_worker_info()
        seed = info.seed if info else None
        if self.noise is None or seed != self.seed:
            self.seed = seed
            start = torch.initial_seed() if seed is None else seed
            self.noise = np.random.Generator(np.random.PCG64(start))
        row = self.x[i]
        return row + torch.tensor(self.noise.standard_normal(row.shape)).type_as(row)


@rejected("Augmented", by="test_workers_differ", says="copy of the same generator")
class GeneratorFromTheBeginning(Augmented):
    def __init__(self, x):
        self.x = x
        self.rng = np.random.default_rng(torch.initial_seed() % 2**32)

    def __getitem__(self, i):
        return self.x[i] + torch.as_tensor(
            self.rng.standard_normal(self.x[i].shape), dtype=self.x.dtype
        )


@rejected("Augmented", by=("test_epochs_differ", "test_same_seed"), says="same")
def seeded_by_the_worker_id(reference: str) -> str:
    return reference.replace(
        "    get_worker_info().dataset.noise = None",
        "    get_worker_info().dataset.noise = np.random.default_rng(worker_id)",
    )


@rejected("Augmented", by="test_used_before", says="copied into every worker")
def init_does_nothing(reference: str) -> str:
    return reference.replace("    get_worker_info().dataset.noise = None", "    return None")


@rejected("Augmented", by="test_global_generators", says="NumPy")
class SeedsNumPy(Augmented):
    def __getitem__(self, i):
        if self.noise is None:
            self.noise = np.random.default_rng(torch.initial_seed())
            np.random.seed(torch.initial_seed() % 2**32)
        row = self.x[i]
        return row + torch.as_tensor(self.noise.standard_normal(row.shape), dtype=row.dtype)


@rejected("Augmented", by=("test_without_workers", "test_global_generators"))
class GlobalNumPy(Augmented):
    def __getitem__(self, i):
        row = self.x[i]
        return row + torch.as_tensor(np.random.standard_normal(row.shape), dtype=row.dtype)


@rejected("Augmented", by="test_global_generators", says="torch")
class GlobalTorch(Augmented):
    def __getitem__(self, i):
        return self.x[i] + torch.randn_like(self.x[i])


@rejected("Augmented", by=("test_same_seed", "test_without_workers"), says="clock")
class SeededByTheClock(Augmented):
    def __getitem__(self, i):
        if self.noise is None:
            info = get_worker_info()
            self.noise = np.random.default_rng(time.time_ns() + (info.id if info else 0))
        row = self.x[i]
        return row + torch.as_tensor(self.noise.standard_normal(row.shape), dtype=row.dtype)


@rejected("Augmented", by=("test_same_seed", "test_without_workers"), says="system")
class SeededByTheSystem(Augmented):
    def __getitem__(self, i):
        if self.noise is None:
            self.noise = np.random.default_rng()
        row = self.x[i]
        return row + torch.as_tensor(self.noise.standard_normal(row.shape), dtype=row.dtype)


@rejected("Augmented", by="test_without_workers", says="fixed one")
class FixedSeedWithoutWorkers(Augmented):
    def __getitem__(self, i):
        if self.noise is None:
            info = get_worker_info()
            self.noise = np.random.default_rng(info.seed if info else 0)
        return super().__getitem__(i)


@rejected("Augmented", by="test_without_workers", says="simply go on")
class NoiseOfTheIndex(Augmented):
    def __getitem__(self, i):
        self.noise = np.random.default_rng([torch.initial_seed() % 2**32, i])
        return super().__getitem__(i)


@rejected("Augmented", by="test_without_workers", says="another one")
class SeedOfTheBeginning(Augmented):
    def __init__(self, x):
        super().__init__(x)
        self.seed = torch.initial_seed()

    def __getitem__(self, i):
        if self.noise is None and get_worker_info() is None:
            self.noise = np.random.default_rng(self.seed)
        return super().__getitem__(i)


@rejected("Augmented", by="test_standard_normal", says="uniform")
class UniformNoise(Augmented):
    def __getitem__(self, i):
        super().__getitem__(i)
        row = self.x[i]
        return row + torch.as_tensor(self.noise.random(row.shape) - 0.5, dtype=row.dtype)


@rejected("Augmented", by="test_standard_normal", says="mean")
class NoiseAlone(Augmented):
    def __getitem__(self, i):
        return super().__getitem__(i) - self.x[i]


@rejected("Augmented", by="test_items", says="float64; expected float32")
class NoiseDecidesTheDtype(Augmented):
    def __getitem__(self, i):
        return self.x[i] + (super().__getitem__(i) - self.x[i]).double()


# --- 4 ------------------------------------------------------------------------------------------


def moved(item, device):
    if torch.is_tensor(item):
        return item.to(device, non_blocking=item.is_pinned())
    if isinstance(item, dict):
        return {key: moved(value, device) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return type(item)([moved(value, device) for value in item])
    return item


@accepted("Prefetcher")
class WithTimeouts(Prefetcher):
    def __iter__(self):
        ready = queue.Queue(self.depth)
        stop = threading.Event()
        end = object()

        def put(value):
            while not stop.is_set():
                try:
                    ready.put(value, timeout=0.05)
                    return True
                except queue.Full:
                    pass
            return False

        def work():
            error = None
            try:
                for item in self.iterable:
                    if not put((moved(item, self.device), None)):
                        return
            except BaseException as raised:
                error = raised
            put((end, error))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            while True:
                item, error = ready.get()
                if error is not None:
                    raise error
                if item is end:
                    break
                yield item
        finally:
            stop.set()
            thread.join()


class OneRun:
    def __init__(self, source, device, depth):
        self.room = threading.Semaphore(depth + 1)
        self.ready = queue.SimpleQueue()
        self.device = device
        self.state = {"stopped": False}
        work = (source, self.room, self.ready, self.state)
        threading.Thread(target=fill, args=work, daemon=True).start()

    def __iter__(self):
        return self

    def __next__(self):
        item, error, ended = self.ready.get()
        if ended:
            self.ready.put((None, error, True))
            raise error if error is not None else StopIteration
        self.room.release()
        return moved(item, self.device)

    def __del__(self):
        self.state["stopped"] = True
        self.room.release()


def fill(source, room, ready, state):
    try:
        items = iter(source)
        while True:
            room.acquire()
            if state["stopped"]:
                return
            try:
                item = next(items)
            except StopIteration:
                break
            ready.put((item, None, False))
    except Exception as error:
        ready.put((None, error, True))
    else:
        ready.put((None, None, True))


@accepted("Prefetcher")
class WithAnIteratorClass(Prefetcher):
    def __iter__(self):
        return OneRun(self.iterable, self.device, self.depth)


@accepted("Prefetcher")
class WithAPool(Prefetcher):
    def __iter__(self):
        from collections import deque
        from concurrent.futures import ThreadPoolExecutor

        end = object()
        with ThreadPoolExecutor(1) as pool:
            source = pool.submit(iter, self.iterable).result()
            waiting = deque(pool.submit(next, source, end) for _ in range(self.depth))
            while True:
                item = waiting.popleft().result()
                if item is end:
                    return
                waiting.append(pool.submit(next, source, end))
                yield moved(item, self.device)


@accepted("Prefetcher")
class WithACondition(Prefetcher):
    def __iter__(self):
        ready, changed = [], threading.Condition()
        state = {"left": False, "over": False, "error": None}

        def work():
            try:
                for item in self.iterable:
                    there = moved(item, self.device)
                    with changed:
                        changed.wait_for(lambda: state["left"] or len(ready) < self.depth)
                        if state["left"]:
                            return
                        ready.append(there)
                        changed.notify_all()
            except Exception as error:
                state["error"] = error
            finally:
                with changed:
                    state["over"] = True
                    changed.notify_all()

        thread = threading.Thread(target=work, name="prefetch", daemon=True)
        thread.start()
        try:
            while True:
                with changed:
                    changed.wait_for(lambda: ready or state["over"])
                    if not ready:
                        break
                    item = ready.pop(0)
                    changed.notify_all()
                yield item
            if state["error"] is not None:
                raise state["error"]
        finally:
            with changed:
                state["left"] = True
                changed.notify_all()
            thread.join()


@rejected("Prefetcher", by="test_at_most_depth_ahead", says="memory")
class QueueWithoutEnd(Prefetcher):
    def __init__(self, iterable, device, depth=2):
        super().__init__(iterable, device, 0)


@rejected("Prefetcher", by="test_at_most_depth_ahead", says="expected at most")
class OneTooMany(Prefetcher):
    def __init__(self, iterable, device, depth=2):
        super().__init__(iterable, device, depth + 1)


@rejected("Prefetcher", by="test_at_most_depth_ahead")
class AllAtOnce(Prefetcher):
    def __iter__(self):
        return (moved(item, self.device) for item in list(self.iterable))


@rejected("Prefetcher", by="test_exception", says="hangs")
def swallows_exceptions(reference: str) -> str:
    return reference.replace('                items.put(("error", error))', "                pass")


@rejected("Prefetcher", by="test_exception", says="looks like a whole one")
def an_exception_is_the_end(reference: str) -> str:
    return reference.replace('items.put(("error", error))', 'items.put(("end", error))')


@rejected("Prefetcher", by="test_exception", says="items before")
class ExceptionAtOnce(Prefetcher):
    def __iter__(self):
        ready, errors, end = queue.Queue(self.depth), [], object()

        def work():
            try:
                for item in self.iterable:
                    ready.put(item)
            except Exception as error:
                errors.append(error)
            ready.put(end)

        threading.Thread(target=work, daemon=True).start()
        while True:
            item = ready.get()
            if errors:
                raise errors[0]
            if item is end:
                return
            yield moved(item, self.device)


@rejected("Prefetcher", by="test_exception", says="text")
def says_nothing_of_the_source(reference: str) -> str:
    return reference.replace("raise value", "raise type(value)()")


@rejected("Prefetcher", by="test_break_stops_the_thread", says="finally")
def leaks_the_thread(reference: str) -> str:
    return reference.replace("            stopped.set()\n", "            return\n")


@rejected("Prefetcher", by="test_break_stops_the_thread")
def sets_the_event_alone(reference: str) -> str:
    return reference.replace("while not items.empty():", "while False:")


@rejected("Prefetcher", by="test_end_stops_the_thread", says="after the end")
def waits_for_ever_after_the_end(reference: str) -> str:
    return reference.replace(
        '                items.put(("end", None))',
        '                items.put(("end", None))\n                threading.Event().wait()',
    )


@rejected("Prefetcher", by="test_order", says="last item")
class LosesTheLast(Prefetcher):
    def __iter__(self):
        held = []
        for item in super().__iter__():
            if held:
                yield held.pop()
            held.append(item)


@rejected("Prefetcher", by="test_order", says="hangs")
def no_sentinel(reference: str) -> str:
    return reference.replace('                items.put(("end", None))', "                pass")


@rejected("Prefetcher", by="test_order")
class LastInFirstOut(Prefetcher):
    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


@rejected("Prefetcher", by="test_overlap", says="take turns")
class NotAhead(Prefetcher):
    def __iter__(self):
        return (moved(item, self.device) for item in self.iterable)


@rejected("Prefetcher", by="test_overlap", says="take turns")
class AThreadForEachItem(Prefetcher):
    def __iter__(self):
        from concurrent.futures import ThreadPoolExecutor

        end = object()
        with ThreadPoolExecutor(1) as pool:
            source = iter(self.iterable)
            while True:
                item = pool.submit(next, source, end).result()
                if item is end:
                    return
                yield moved(item, self.device)


@rejected("Prefetcher", by="test_again")
class OnlyOnce(Prefetcher):
    def __init__(self, iterable, device, depth=2):
        super().__init__(iter(iterable), device, depth)


@rejected("Prefetcher", by="test_again", says="of the pass after it")
class OneQueueForAll(Prefetcher):
    def __init__(self, iterable, device, depth=2):
        super().__init__(iterable, device, depth)
        self.run = None

    def __iter__(self):
        if self.run is None:
            self.run = super().__iter__()
        yield from self.run
        self.run = None


@rejected("Prefetcher", by="test_device", says="inside tuples")
def moves_tensors_alone(reference: str) -> str:
    return reference.replace("if isinstance(thing, tuple):", "if False:")


@rejected("Prefetcher", by="test_device", says="inside tuples")
def forgets_dicts(reference: str) -> str:
    return reference.replace("if isinstance(thing, dict):", "if False:")


@rejected("Prefetcher", by="test_device", says="handed out as a list")
def tuples_become_lists(reference: str) -> str:
    return reference.replace(
        "return tuple(moved(part) for part in thing)", "return [moved(part) for part in thing]"
    )


@rejected("Prefetcher", by="test_device")
def moves_nothing(reference: str) -> str:
    return reference.replace("yield moved(value)", "yield value")


@rejected("Prefetcher", by="test_speed")
class HoldsTheConsumerUp(Prefetcher):
    def __iter__(self):
        for item in super().__iter__():
            time.sleep(0.008)
            yield item


# --- 5 ------------------------------------------------------------------------------------------


def a_record(config, startup):
    return {"config": config, "startup_s": startup, "batch_s": float("inf"), "batches": 1}


def race(make_loader, step, grid, total, budget, *, ahead=0.05, close=True, rounds=(2, 4, 8, 16)):
    """Restarts every loader in every round."""
    started = perf_counter()
    records, opened = {}, []

    def left():
        return perf_counter() - started < budget

    def cost(place):
        return records[place]["startup_s"] + total * records[place]["batch_s"]

    places = [k for k, config in enumerate(grid) if torch.cuda.is_available() or not config["pin"]]
    times = {k: [] for k in places}
    try:
        for count in rounds:
            for k in places:
                if not left():
                    break
                begin = perf_counter()
                loader = make_loader(grid[k])
                opened.append(loader)
                batches = iter(loader)
                batch = next(batches)
                there = perf_counter()
                step(batch)
                after = perf_counter()
                record = records.setdefault(k, a_record(grid[k], there - begin))
                if times[k]:
                    record["batches"] += 1
                for _ in range(count):
                    if not left():
                        break
                    step(next(batches))
                    now = perf_counter()
                    times[k].append(now - after)
                    after = now
                    record["batches"] += 1
                if times[k]:
                    record["batch_s"] = sum(times[k]) / len(times[k])
            places = sorted((k for k in places if k in records), key=cost)
            places = places[: max(1, len(places) // 2)]
    finally:
        for loader in opened:
            if close and hasattr(loader, "close"):
                loader.close()
    least = min(map(cost, records))
    near = [k for k in records if cost(k) <= (1 + ahead) * least]
    best = min(near, key=lambda k: (grid[k]["workers"], grid[k]["pin"], cost(k)))
    return grid[best], list(records.values())


@accepted("autotune")
def restarting_in_each_round(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s)


@accepted("autotune")
class AsAClass:
    def __new__(cls, make_loader, step, grid, total_batches, budget_s):
        self = super().__new__(cls)
        self.step, self.end = step, time.perf_counter() + budget_s
        trials = []
        try:
            for config in grid:
                if config["pin"] and not torch.cuda.is_available():
                    continue
                if time.perf_counter() >= self.end:
                    break
                trials.append(self.begin(make_loader, dict(config)))
                self.measure(trials[-1], 3)
            group = list(trials)
            while len(group) > 1:
                group.sort(key=lambda trial: self.cost(trial, total_batches))
                del group[(len(group) + 1) // 2 :]
                for trial in group:
                    self.measure(trial, 5)
        finally:
            for trial in trials:
                getattr(trial["loader"], "close", lambda: None)()
        costs = [self.cost(trial, total_batches) for trial in trials]
        _, _, _, best = min(
            (trial["config"]["workers"], trial["config"]["pin"], cost, place)
            for place, (trial, cost) in enumerate(zip(trials, costs, strict=True))
            if cost <= 1.05 * min(costs)
        )
        keys = ("config", "startup_s", "batch_s", "batches")
        return trials[best]["config"], [
            dict(zip(keys, (t["config"], t["startup"], self.mean(t), t["batches"]), strict=True))
            for t in trials
        ]

    def begin(self, make_loader, config):
        start = time.perf_counter()
        loader = make_loader(config)
        batches = iter(loader)
        batch = next(batches)
        startup = time.perf_counter() - start
        self.step(batch)
        return dict(loader=loader, it=batches, config=config, startup=startup, times=[], batches=1)

    def measure(self, trial, count):
        for _ in range(count):
            start = time.perf_counter()
            if start >= self.end:
                break
            self.step(next(trial["it"]))
            trial["times"].append(time.perf_counter() - start)
            trial["batches"] += 1

    def mean(self, trial):
        return statistics.fmean(trial["times"]) if trial["times"] else float("inf")

    def cost(self, trial, total):
        return trial["startup"] + total * self.mean(trial)


@accepted("autotune")
def five_batches_a_round(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, rounds=(5, 5, 5, 5, 5))


@rejected("autotune", by="test_fewest_workers", says="fewest workers")
def looks_at_the_finalists_alone(reference: str) -> str:
    return reference.replace(
        "for record in records if total(record) <= limit",
        "for record in (records[k] for k in racing) if total(record) <= limit",
    )


@rejected("autotune", by="test_records")
def start_up_in_the_mean(reference: str) -> str:
    return reference.replace("spent[place] = 0.0", "spent[place] = startup")


@rejected("autotune", by="test_records", says="calls of step")
def no_step_on_the_first_batch(reference: str) -> str:
    return reference.replace(
        "            startup = there - began\n            step(batch)\n",
        "            startup = there - began\n",
    )


@rejected("autotune", by=("test_io_bound", "test_noise"))
def keeps_the_worse_half(reference: str) -> str:
    return reference.replace(
        "racing.sort(key=lambda place: total(records[place]))",
        "racing.sort(key=lambda place: -total(records[place]))",
    ).replace(
        "for record in records if total(record) <= limit",
        "for record in (records[k] for k in racing)",
    )


@rejected("autotune", by=("test_cpu_bound", "test_fewest_workers"), says="the most workers are not")
def always_the_most_workers(make_loader, step, grid, total_batches, budget_s):
    _, records = race(make_loader, step, grid, total_batches, budget_s)
    return max((r["config"] for r in records), key=lambda c: (c["workers"], c["batched"])), records


@rejected("autotune", by="test_io_bound")
def always_the_fewest_workers(make_loader, step, grid, total_batches, budget_s):
    _, records = race(make_loader, step, grid, total_batches, budget_s)
    return min((r["config"] for r in records), key=lambda c: c["workers"]), records


@rejected("autotune", by="test_short_and_long", says="without its start-up")
def ignores_the_start_up(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, 10**6, budget_s)


@rejected("autotune", by="test_short_and_long", says="paid once")
def start_up_for_each_batch(reference: str) -> str:
    return reference.replace(
        'record["startup_s"] + total_batches * record["batch_s"]',
        'total_batches * (record["startup_s"] + record["batch_s"])',
    )


@rejected("autotune", by="test_short_and_long")
def for_a_run_of_one_length(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, 100, budget_s)


@rejected("autotune", by="test_noise", says="by chance")
def measures_one_batch(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, rounds=(1,))


@rejected("autotune", by="test_halving", says="losers")
def the_same_for_all(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, rounds=(12,))


@rejected("autotune", by="test_budget", says="before every fetch")
def exceeds_the_budget(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, float("inf"), rounds=(20, 40))


@rejected("autotune", by="test_budget")
def start_ups_do_not_count(reference: str) -> str:
    return reference.replace(
        "            startup = there - began\n",
        "            startup = there - began\n            end += startup\n",
    )


@rejected("autotune", by="test_budget")
def looks_at_the_budget_between_rounds(reference: str) -> str:
    return reference.replace("            if began >= end:\n                return\n", "")


@rejected("autotune", by="test_closed", says="still open")
def leaves_all_open(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, close=False)


@rejected("autotune", by="test_closed", says="still open")
def closes_the_winner_alone(reference: str) -> str:
    return reference.replace(
        "        for loader in loaders:\n",
        "        for loader in loaders[-1:]:\n",
    )


@rejected("autotune", by="test_closed")
def expects_a_close(reference: str) -> str:
    return reference.replace('            if hasattr(loader, "close"):\n', "            if True:\n")


@rejected("autotune", by="test_fewest_workers", says="fewest workers")
def takes_the_very_best(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, ahead=0.0)


@rejected("autotune", by="test_fewest_workers")
def forgives_too_much(make_loader, step, grid, total_batches, budget_s):
    return race(make_loader, step, grid, total_batches, budget_s, ahead=0.2)


@rejected("autotune", by="test_no_pinning_without_cuda", says="pin=True")
def pins_always(reference: str) -> str:
    return reference.replace('config["pin"] and not torch.cuda.is_available()', "False")


@rejected("autotune", by="test_pinning_where_it_pays")
def never_pins(reference: str) -> str:
    return reference.replace('config["pin"] and not torch.cuda.is_available()', 'config["pin"]')


@rejected("autotune", by="test_pinning_where_it_pays")
def pins_in_a_tie(reference: str) -> str:
    return reference.replace('record["config"]["pin"], total', 'not record["config"]["pin"], total')


@rejected("autotune", by="test_records", says="batch_s is the wait alone")
def waits_alone(reference: str) -> str:
    return reference.replace(
        "            step(next(iterators[place]))\n"
        "            spent[place] += time.perf_counter() - began\n",
        "            batch = next(iterators[place])\n"
        "            spent[place] += time.perf_counter() - began\n"
        "            step(batch)\n",
    )


@rejected("autotune", by="test_records", says="includes the step")
def first_step_in_the_start_up(reference: str) -> str:
    return reference.replace(
        "            startup = there - began\n            step(batch)\n",
        "            step(batch)\n            startup = time.perf_counter() - began\n",
    )


@rejected("autotune", by="test_records")
def records_of_the_finalists(reference: str) -> str:
    return reference.replace('return best["config"], records', 'return best["config"], [best]')


@rejected("autotune", by="test_deterministic", says="at random")
def tries_a_random_half(make_loader, step, grid, total_batches, budget_s):
    order = torch.randperm(len(grid)).tolist()
    some = [grid[k] for k in order[: (len(grid) + 1) // 2]]
    return race(make_loader, step, some, total_batches, budget_s)
