"""Answers to day 4 that its suite must accept or reject."""

from indexing import *
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- view_or_copy


@accepted("view_or_copy")
def written_out():
    return {
        "x[1]": "view",
        "x[0:1]": "view",
        "x[:, ::2]": "view",
        "x[..., None]": "view",
        "x[[1]]": "copy",
        "x[:, [0, 2]]": "copy",
        "x[x > 0]": "copy",
        "x[torch.tensor(1)]": "view",
        "x.mT": "view",
        "x.flatten()": "view",
        "x.transpose(0, 1).reshape(-1)": "copy",
        "x.expand(5, 2, 3, 4)": "view",
        "x.diagonal()": "view",
        "x.unfold(2, 2, 1)": "view",
        "x.chunk(2)[0]": "view",
        "x.contiguous()": "view",
        "x.to(torch.float32)": "view",
        "x.detach()": "view",
        "x.clone()": "copy",
        "x.repeat(1, 1, 1)": "copy",
        "torch.stack(list(x))": "copy",
    }


@accepted("view_or_copy")
def letters_in_order():
    words = {"v": "view", "c": "copy"}
    letters = "vvvvcccvvvcvvvvvvvccc"
    return dict(zip(EXPRESSIONS, map(words.get, letters), strict=True))


def all_views():
    return dict.fromkeys(EXPRESSIONS, "view")


def right_but_for(*expressions):
    copies = (4, 5, 6, 10, 18, 19, 20)
    answers = {each: "copy" if i in copies else "view" for i, each in enumerate(EXPRESSIONS)}
    turned = {"view": "copy", "copy": "view"}
    return answers | {each: turned[answers[each]] for each in expressions}


@rejected(
    "view_or_copy",
    by=("test_advanced_indexing", "test_shapes_and_strides", "test_conversions"),
    says="no common stride",
)
def always_view():
    return all_views()


@rejected("view_or_copy", by=("test_basic_indexing", "test_index_without_dimensions"))
def always_copy():
    return dict.fromkeys(EXPRESSIONS, "copy")


@rejected("view_or_copy", by="test_shapes_and_strides", says="flatten")
def flatten_copies():
    return right_but_for("x.flatten()")


@rejected("view_or_copy", by="test_shapes_and_strides", says="transpose(0, 1).reshape")
def reshape_never_copies():
    return right_but_for("x.transpose(0, 1).reshape(-1)")


@rejected("view_or_copy", by="test_shapes_and_strides", says="overlap")
def windows_copy():
    return right_but_for("x.unfold(2, 2, 1)")


@rejected("view_or_copy", by="test_shapes_and_strides", says="stride 0")
def expand_copies():
    return right_but_for("x.expand(5, 2, 3, 4)")


@rejected("view_or_copy", by="test_conversions", says="x itself")
def contiguous_copies():
    return right_but_for("x.contiguous()")


@rejected("view_or_copy", by="test_conversions", says="not the memory")
def detach_copies():
    return right_but_for("x.detach()")


@rejected("view_or_copy", by="test_conversions", says="repeat")
def repeating_once_is_a_view():
    return right_but_for("x.repeat(1, 1, 1)")


@rejected("view_or_copy", by="test_advanced_indexing", says="x[[1]]")
def a_list_of_one_is_an_int():
    return right_but_for("x[[1]]")


@rejected("view_or_copy", by="test_index_without_dimensions", says="like an int")
def index_tensors_always_copy():
    return right_but_for("x[torch.tensor(1)]")


@rejected("view_or_copy", by="test_basic_indexing", says="strides")
def steps_copy():
    return right_but_for("x[:, ::2]")


@rejected("view_or_copy", by=("test_keys", "test_basic_indexing"), says="'a'")
def keyed_by_letter():
    answers = right_but_for()
    return dict(zip("abcdefghijklmnopqrstu", answers.values(), strict=True))


@rejected("view_or_copy", by=("test_keys", "test_conversions"), says="torch.stack")
def one_is_missing():
    answers = right_but_for()
    del answers["torch.stack(list(x))"]
    return answers


@rejected("view_or_copy", by="test_keys", says="none of the expressions")
def one_too_many():
    return right_but_for() | {"x.T": "view"}


@rejected("view_or_copy", by=("test_keys", "test_basic_indexing"), says="True")
def true_for_views():
    return {each: said == "view" for each, said in right_but_for().items()}


@rejected("view_or_copy", by="test_keys", says="dict")
def a_list_of_words():
    return list(right_but_for().values())


@rejected("view_or_copy", by="test_predicted", says="predict")
def tries_them():
    x = torch.zeros(2, 3, 4)
    answers = {}
    for each in EXPRESSIONS:
        result = eval(each)
        shares = result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        answers[each] = "view" if shares else "copy"
    return answers


# --- take_per_row


@accepted("take_per_row")
def with_gather(x, idx):
    index = (idx % x.shape[1])[:, :, None].expand(-1, -1, x.shape[2])
    return x.gather(1, index)


@accepted("take_per_row")
def with_where_for_the_negative_ones(x, idx):
    index = torch.where(idx < 0, idx + x.size(1), idx)
    return torch.gather(x, 1, index.unsqueeze(-1).repeat(1, 1, x.size(2)))


@accepted("take_per_row")
def with_take_along_dim(x, idx):
    return torch.take_along_dim(x, idx[..., None], dim=1)


@accepted("take_per_row")
def with_vmap(x, idx):
    return torch.vmap(lambda rows, places: rows[places])(x, idx)


@accepted("take_per_row")
def with_one_flat_index(x, idx):
    batch, n, feat = x.shape
    first = n * torch.arange(batch, device=x.device).unsqueeze(1)
    flat = x.reshape(batch * n, feat)
    return flat.index_select(0, (idx % n + first).flatten()).view(*idx.shape, feat)


@accepted("take_per_row")
def with_embedding(x, idx):
    batch, n, feat = x.shape
    first = torch.arange(0, batch * n, n, device=x.device)
    return F.embedding(idx.remainder(n) + first[:, None], x.flatten(0, 1))


@accepted("take_per_row")
def with_one_hot(x, idx):
    return F.one_hot(idx % x.shape[1], x.shape[1]).to(x.dtype) @ x


@accepted("take_per_row")
def with_einsum(x, idx):
    chosen = F.one_hot(idx.remainder(x.shape[1]), x.shape[1]).to(x)
    return torch.einsum("bkn,bnf->bkf", chosen, x)


@accepted("take_per_row")
def with_three_index_tensors(x, idx):
    batch = torch.arange(x.shape[0])[:, None, None]
    return x[batch, idx[:, :, None], torch.arange(x.shape[2])]


@rejected("take_per_row", by=("test_rows", "test_no_rows"), says="belongs to x[b]")
def every_index_row_for_every_entry(x, idx):
    return x[:, idx]


@rejected("take_per_row", by="test_rows", says="broadcasts nothing")
def gathers_without_expanding(x, idx):
    return x.gather(1, (idx % x.shape[1])[:, :, None])


@rejected("take_per_row", by="test_rows", says="batch entry 0")
def the_first_indices_for_all(x, idx):
    return x[:, idx[0]]


@rejected("take_per_row", by="test_rows", says="x[0]")
def counts_through_the_batch(x, idx):
    return x.reshape(-1, x.shape[2])[idx]


@rejected("take_per_row", by="test_rows")
def pairs_without_a_column(x, idx):
    return x[torch.arange(len(x)), idx]


@rejected("take_per_row", by="test_rows")
def transposed_result(x, idx):
    return x[torch.arange(len(x)), idx.T].contiguous()


@rejected("take_per_row", by="test_negative")
def gathers_negative_indices(x, idx):
    return x.gather(1, idx[:, :, None].expand(-1, -1, x.shape[2]))


@rejected("take_per_row", by="test_negative", says="replaced by 0")
def negative_indices_are_zero(x, idx):
    return x.gather(1, idx.clamp_min(0)[:, :, None].expand(-1, -1, x.shape[2]))


@rejected("take_per_row", by="test_negative", says="sign")
def drops_the_sign(x, idx):
    return x[torch.arange(len(x))[:, None], idx.abs() % x.shape[1]]


@rejected("take_per_row", by="test_negative", says="entry before")
def flat_index_without_a_shift(x, idx):
    batch, n, feat = x.shape
    first = n * torch.arange(batch)[:, None]
    return x.reshape(-1, feat)[idx + first]


@rejected("take_per_row", by="test_more_rows_than_there_are")
def buffer_like_x(x, idx):
    batch, k = idx.shape
    index = torch.zeros(x.shape[:2], dtype=torch.int64)
    index[:, :k] = idx
    return x[torch.arange(batch)[:, None], index][:, :k]


@rejected("take_per_row", by="test_no_rows")
def asks_for_the_largest_index(x, idx):
    if idx.max() >= x.shape[1]:
        raise IndexError("index out of range")
    return x[torch.arange(len(x))[:, None], idx]


@rejected("take_per_row", by="test_no_rows")
def guesses_a_size_from_the_rest(x, idx):
    rows = x[torch.arange(len(x))[:, None], idx]
    return rows.reshape(len(x), idx.shape[1], -1)


@rejected("take_per_row", by="test_sizes_of_one")
def squeezes(x, idx):
    return x[torch.arange(len(x))[:, None], idx].squeeze()


@rejected("take_per_row", by="test_gradient")
def detaches(x, idx):
    return x.detach()[torch.arange(len(x))[:, None], idx]


@rejected("take_per_row", by="test_gradient")
def goes_through_numpy(x, idx):
    rows = x.detach().numpy()
    return torch.from_numpy(rows[range(len(x)), idx.numpy().T].swapaxes(0, 1).copy())


@rejected("take_per_row", by="test_no_loop")
def one_entry_at_a_time(x, idx):
    return torch.stack([rows[places] for rows, places in zip(x, idx, strict=True)])


@rejected("take_per_row", by="test_no_loop")
def one_column_at_a_time(x, idx):
    out = x.new_empty(*idx.shape, x.shape[2])
    batch = torch.arange(len(x))
    for j in range(idx.shape[1]):
        out[:, j] = x[batch, idx[:, j]]
    return out


@rejected("take_per_row", by="test_leaves_its_arguments_alone", says="idx")
def shifts_the_indices_in_place(x, idx):
    idx[idx < 0] += x.shape[1]
    return x.gather(1, idx[:, :, None].expand(-1, -1, x.shape[2]))


@rejected("take_per_row", by="test_rows", says="swapped")
def slice_between_the_indices(x, idx):
    rows = x.movedim(1, 2)[torch.arange(len(x))[:, None], :, idx]
    return rows.mT


@rejected("take_per_row", by="test_rows")
def the_same_rows_in_order(x, idx):
    return x[torch.arange(len(x))[:, None], idx.sort(1).values]


@rejected("take_per_row", by="test_rows")
def every_row_once(x, idx):
    out = x.new_zeros(len(x), idx.shape[1], x.shape[2])
    chosen = idx.unique(dim=1)
    rows = x[torch.arange(len(x))[:, None], chosen]
    out[:, : rows.shape[1]] = rows
    return out


# --- histogram_add


@accepted("histogram_add")
def in_place_on_a_clone(bins, idx, w):
    return bins.clone().index_add_(0, idx, w)


@accepted("histogram_add")
def with_scatter_add(bins, idx, w):
    return bins.scatter_add(0, idx, w)


@accepted("histogram_add")
def with_index_put(bins, idx, w):
    return bins.index_put((idx,), w, accumulate=True)


@accepted("histogram_add")
def with_scatter_reduce(bins, idx, w):
    return torch.scatter_reduce(bins, 0, idx, w, reduce="sum")


@accepted("histogram_add")
def added_to_zeros(bins, idx, w):
    return bins + torch.zeros_like(bins).index_add_(0, idx, w)


@accepted("histogram_add")
def with_a_table(bins, idx, w):
    table = F.one_hot(idx, len(bins)).to(w.dtype)
    return bins + (table * w[:, None]).sum(0, dtype=w.dtype)


@accepted("histogram_add")
def with_a_matrix_product(bins, idx, w):
    return bins + w @ F.one_hot(idx, len(bins)).to(w.dtype)


@accepted("histogram_add")
def with_a_check_by_hand(bins, idx, w):
    if (idx >= len(bins)).any():
        raise IndexError("index out of range")
    own = torch.arange(len(bins), device=bins.device)[:, None] == idx
    return bins + own.to(w.dtype) @ w


@rejected("histogram_add", by=("test_values", "test_one_bin", "test_gradient"), says="last write")
def adds_by_index(bins, idx, w):
    out = bins.clone()
    out[idx] += w
    return out


@rejected("histogram_add", by="test_values", says="last write")
def puts_without_accumulating(bins, idx, w):
    return bins.index_put((idx,), bins[idx] + w)


@rejected("histogram_add", by="test_leaves_its_arguments_alone", says="bins")
def adds_in_place(bins, idx, w):
    return bins.index_add_(0, idx, w)


@rejected("histogram_add", by=("test_leaves_its_arguments_alone", "test_no_weights"), says="bins")
def clone_of_nothing(bins, idx, w):
    bins.scatter_add_(0, idx, w)
    return bins


@rejected("histogram_add", by="test_values", says="up to the largest index")
def short_bincount(bins, idx, w):
    return torch.bincount(idx, w).to(bins.dtype)


@rejected("histogram_add", by=("test_values", "test_gradient"))
def short_bincount_added(bins, idx, w):
    return bins + torch.bincount(idx, w).to(bins.dtype)


@rejected("histogram_add", by=("test_gradient", "test_integers"))
def with_bincount(bins, idx, w):
    return (bins + torch.bincount(idx, w, minlength=len(bins))).to(bins.dtype)


@rejected("histogram_add", by="test_gradient", says="bins")
def loses_the_gradient_of_bins(bins, idx, w):
    return bins.detach().index_add(0, idx, w)


@rejected("histogram_add", by="test_gradient", says="w")
def loses_the_gradient_of_w(bins, idx, w):
    return bins.index_add(0, idx, w.detach())


@rejected("histogram_add", by="test_values", says="written over")
def scatters_over(bins, idx, w):
    return bins.scatter(0, idx, w)


@rejected("histogram_add", by="test_values", says="starts from bins")
def starts_from_zero(bins, idx, w):
    return torch.zeros_like(bins).index_add(0, idx, w)


@rejected("histogram_add", by="test_values", says="counts as 1")
def counts_only(bins, idx, w):
    return bins.index_add(0, idx, torch.ones_like(w))


@rejected("histogram_add", by="test_integers", says="int64")
def integers_become_floats(bins, idx, w):
    return bins.float().index_add(0, idx, w.float())


@rejected("histogram_add", by="test_integers")
def integers_by_way_of_floats(bins, idx, w):
    return bins.double().index_add(0, idx, w.double()).to(bins.dtype)


@rejected("histogram_add", by="test_integers", says="int32")
def integers_summed_in_int64(bins, idx, w):
    return bins + (F.one_hot(idx, len(bins)) * w[:, None]).sum(0)


@rejected("histogram_add", by="test_float_dtypes", says="float64")
def in_float32_always(bins, idx, w):
    if not bins.is_floating_point():
        return bins.index_add(0, idx, w)
    return bins.float().index_add(0, idx, w.float())


@rejected("histogram_add", by="test_no_weights", says="copy")
def nothing_to_add(bins, idx, w):
    return bins.index_add(0, idx, w) if len(idx) else bins


@rejected("histogram_add", by="test_no_weights")
def asks_for_the_largest_index(bins, idx, w):
    if idx.max() >= len(bins):
        raise IndexError("index out of range")
    return bins.index_add(0, idx, w)


@rejected("histogram_add", by="test_out_of_range")
def drops_what_lies_outside(bins, idx, w):
    inside = idx < len(bins)
    return bins.index_add(0, idx[inside], w[inside])


@rejected("histogram_add", by="test_out_of_range")
def clamps_what_lies_outside(bins, idx, w):
    return bins.index_add(0, idx.clamp_max(len(bins) - 1), w)


@rejected("histogram_add", by="test_out_of_range")
def compares_with_every_bin(bins, idx, w):
    own = torch.arange(len(bins))[:, None] == idx
    return bins + own.to(w.dtype) @ w


@rejected("histogram_add", by="test_no_loop")
def one_weight_at_a_time(bins, idx, w):
    out = bins.clone()
    for place, weight in zip(idx.tolist(), w, strict=True):
        out[place] += weight
    return out


@rejected("histogram_add", by="test_no_loop")
def one_bin_at_a_time(bins, idx, w):
    if (idx >= len(bins)).any():
        raise IndexError("index out of range")
    sums = [w[idx == place].sum(dtype=w.dtype) for place in range(len(bins))]
    return bins + torch.stack(sums)


@accepted("histogram_add")
def with_vmap_over_the_bins(bins, idx, w):
    if len(idx) and bool(idx.max() >= len(bins)):
        raise IndexError(f"index {int(idx.max())} is out of range")
    places = torch.arange(len(bins), device=bins.device)

    def one(start, place):
        return start + torch.where(idx == place, w, 0).sum(0, dtype=w.dtype)

    return torch.vmap(one)(bins, places)


@accepted("histogram_add")
def added_together_with_the_bins(bins, idx, w):
    place = torch.cat([torch.arange(len(bins), device=idx.device), idx])
    return torch.zeros_like(bins).index_add(0, place, torch.cat([bins, w]))


@rejected("histogram_add", by=("test_values", "test_one_bin"), says="last write")
def sets_the_sum_of_one(bins, idx, w):
    out = bins.clone()
    out[idx] = bins[idx] + w
    return out


@rejected("histogram_add", by=("test_values", "test_one_bin"))
def averages_the_weights(bins, idx, w):
    return bins.scatter_reduce(0, idx, w, "mean")


@rejected("histogram_add", by=("test_values", "test_one_bin"), says="nothing was added")
def adds_to_a_copy_of_a_copy(bins, idx, w):
    out = bins.clone()
    out[idx].add_(w)
    return out


@rejected("histogram_add", by=("test_values", "test_one_bin"))
def adds_twice(bins, idx, w):
    return bins.index_add(0, idx, w, alpha=2)


# --- attention_mask


@accepted("attention_mask")
def with_tril_and_triu(lengths, seq, window=None):
    mask = torch.ones(seq, seq, dtype=torch.bool, device=lengths.device).tril()
    if window is not None:
        mask = mask.triu(1 - window)
    key = torch.arange(seq, device=lengths.device)
    return mask[None, None] & (key < lengths[:, None])[:, None, None, :]


@accepted("attention_mask")
def with_an_infinite_window(lengths, seq, window=None):
    back = torch.arange(seq, device=lengths.device)
    back = back.unsqueeze(1) - back
    limit = float("inf") if window is None else window
    near = (back >= 0) & (back < limit)
    real = torch.arange(seq, device=lengths.device).view(1, 1, 1, -1) < lengths.view(-1, 1, 1, 1)
    return torch.logical_and(near, real)


@accepted("attention_mask")
def with_the_forbidden_places(lengths, seq, window=None):
    i = torch.arange(seq, device=lengths.device).view(1, 1, seq, 1)
    j = i.mT
    forbidden = (j > i) | (j >= lengths.view(-1, 1, 1, 1))
    if window:
        forbidden = forbidden | (j <= i - window)
    return ~forbidden


@accepted("attention_mask")
def as_one_range_of_keys(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    last = torch.minimum(step, lengths[:, None] - 1)
    first = step - (seq if window is None else window) + 1
    inside = (step >= first[:, None]) & (step <= last[:, :, None])
    return inside[:, None]


@accepted("attention_mask")
def with_masked_fill(lengths, seq, window=None):
    mask = lengths.new_ones((len(lengths), 1, seq, seq)).tril()
    if window is not None:
        mask = mask.triu(-(window - 1))
    padding = torch.arange(seq, device=lengths.device) >= lengths[:, None]
    return mask.masked_fill(padding[:, None, None], 0).bool()


@accepted("attention_mask")
def with_meshgrid_and_vmap(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    i, j = torch.meshgrid(step, step, indexing="ij")
    near = (j <= i) & (i - j < (seq if window is None else window))
    return torch.vmap(lambda length: (near & (j < length))[None])(lengths)


@rejected("attention_mask", by=("test_causal", "test_padding"), says="True means may attend")
def inverted(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    query, key = step[:, None], step
    forbidden = (key > query) | (key >= lengths[:, None, None, None])
    if window is not None:
        forbidden = forbidden | (query - key >= window)
    return forbidden


@rejected("attention_mask", by=("test_padding", "test_all_together"), says="padded queries")
def masks_padded_queries(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    query, key = step[:, None], step
    mask = (key <= query) & (query < lengths[:, None, None, None])
    return mask if window is None else mask & (query - key < window)


@rejected("attention_mask", by="test_padding", says="padded queries")
def masks_padded_queries_and_keys(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    query, key, length = step[:, None], step, lengths[:, None, None, None]
    mask = (key <= query) & (query < length) & (key < length)
    return mask if window is None else mask & (query - key < window)


@rejected("attention_mask", by=("test_padding", "test_length_zero"), says="ignored")
def ignores_the_lengths(lengths, seq, window=None):
    mask = torch.ones(len(lengths), 1, seq, seq, dtype=torch.bool, device=lengths.device).tril()
    return mask if window is None else mask.triu(1 - window)


@rejected("attention_mask", by="test_padding", says="one key too many")
def one_key_of_the_padding(reference: str) -> str:
    return reference.replace("key < lengths", "key <= lengths")


@rejected("attention_mask", by=("test_padding", "test_length_zero"), says="batch entry 0")
def the_first_length_for_all(reference: str) -> str:
    return reference.replace(
        "(key < lengths[:, None, None, None])", "(key < lengths[0]).expand(len(lengths), 1, 1, seq)"
    )


@rejected(
    "attention_mask",
    by=("test_causal", "test_valid_queries_see_something", "test_window_of_one"),
    says="attend to itself",
)
def strictly_causal(reference: str) -> str:
    return reference.replace("allowed = key <= query", "allowed = key < query")


@rejected("attention_mask", by="test_causal", says="later keys")
def not_causal(reference: str) -> str:
    return reference.replace("allowed = key <= query", "allowed = query + key >= 0")


@rejected("attention_mask", by="test_causal", says="swapped")
def queries_and_keys_swapped(reference: str) -> str:
    return reference.replace("query, key = step[:, None], step", "key, query = step[:, None], step")


@rejected("attention_mask", by=("test_window", "test_window_of_one"), says="too far")
def window_one_too_long(reference: str) -> str:
    return reference.replace("query - key < window", "query - key <= window")


@rejected(
    "attention_mask",
    by=("test_window", "test_window_of_one", "test_valid_queries_see_something"),
    says="too short",
)
def window_one_too_short(reference: str) -> str:
    return reference.replace("query - key < window", "query - key < window - 1")


@rejected("attention_mask", by=("test_window", "test_window_of_one"))
def window_to_the_right(reference: str) -> str:
    return reference.replace("query - key < window", "key - query < window")


@rejected("attention_mask", by="test_window", says="far ones")
def window_turned(reference: str) -> str:
    return reference.replace("query - key < window", "query - key >= window")


@rejected("attention_mask", by="test_all_together")
def window_back_from_the_length(reference: str) -> str:
    return reference.replace(
        "(query - key < window)",
        "(query.clamp_max(int(lengths.max()) - 1) - key < window)",
    )


@rejected("attention_mask", by="test_all_together")
def padding_only_without_a_window(lengths, seq, window=None):
    mask = torch.ones(len(lengths), 1, seq, seq, dtype=torch.bool, device=lengths.device).tril()
    if window is not None:
        return mask.triu(1 - window) & (lengths > 0)[:, None, None, None]
    return mask & (torch.arange(seq, device=lengths.device) < lengths[:, None, None, None])


@rejected("attention_mask", by=("test_length_zero", "test_padding"))
def padding_by_slices(lengths, seq, window=None):
    mask = torch.ones(len(lengths), 1, seq, seq, dtype=torch.bool).tril()
    if window is not None:
        mask = mask.triu(1 - window)
    for b, length in enumerate(lengths.tolist()):
        mask[b, :, :, length - seq :] = False
    return mask


@rejected("attention_mask", by="test_length_zero")
def at_least_one_key(reference: str) -> str:
    return reference.replace("key < lengths[", "key < lengths.clamp_min(1)[")


@rejected("attention_mask", by="test_shape", says="float")
def numbers_for_truth(reference: str) -> str:
    return reference.replace(
        "return allowed & (key < lengths[:, None, None, None])",
        "return (allowed & (key < lengths[:, None, None, None])).float()",
    )


@rejected("attention_mask", by="test_shape")
def no_axis_for_the_heads(reference: str) -> str:
    return reference.replace("lengths[:, None, None, None]", "lengths[:, None, None]")


@rejected("attention_mask", by="test_shape")
def batch_on_the_axis_of_the_heads(reference: str) -> str:
    return reference.replace("lengths[:, None, None, None]", "lengths[None, :, None, None]")


@rejected("attention_mask", by="test_device", says="device")
def triangle_on_the_cpu(lengths, seq, window=None):
    mask = torch.tril(torch.ones(seq, seq, dtype=torch.bool))
    if window is not None:
        mask = mask.triu(1 - window)
    return mask & (torch.arange(seq, device=lengths.device) < lengths[:, None, None, None])


@rejected("attention_mask", by="test_no_loop")
def one_sequence_at_a_time(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    mask = step <= step[:, None]
    if window is not None:
        mask &= step[:, None] - step < window
    return torch.stack([mask & (step < length) for length in lengths])[:, None]


@rejected("attention_mask", by="test_no_loop")
def one_query_at_a_time(lengths, seq, window=None):
    mask = torch.zeros(len(lengths), 1, seq, seq, dtype=torch.bool, device=lengths.device)
    for i in range(seq):
        first = 0 if window is None else max(i - window + 1, 0)
        mask[:, :, i, first : i + 1] = True
    return mask & (torch.arange(seq, device=lengths.device) < lengths[:, None, None, None])


@rejected("attention_mask", by="test_no_loop")
def one_diagonal_at_a_time(lengths, seq, window=None):
    step = torch.arange(seq, device=lengths.device)
    mask = torch.zeros(seq, seq, dtype=torch.bool, device=lengths.device)
    for back in range(seq if window is None else min(window, seq)):
        mask |= step[:, None] - step == back
    return mask & (step < lengths[:, None, None, None])


@rejected("attention_mask", by="test_leaves_lengths_alone", says="lengths")
def last_keys_in_place(reference: str) -> str:
    return reference.replace(
        "return allowed & (key < lengths[", "lengths -= 1\n    return allowed & (key <= lengths["
    )


# --- top_p_filter


@accepted("top_p_filter")
def with_shifted_mask(logits, p):
    ordered, order = torch.sort(logits, descending=True, dim=-1)
    remove = ordered.softmax(-1).cumsum(-1) >= p
    remove = remove.roll(1, dims=-1)
    remove[..., 0] = False
    return logits.masked_fill(torch.zeros_like(remove).scatter(-1, order, remove), float("-inf"))


@accepted("top_p_filter")
def filtered_in_order_and_scattered_back(logits, p):
    ordered, order = logits.sort(dim=-1, descending=True)
    probability = F.softmax(ordered, dim=-1)
    before = probability.cumsum(-1) - probability
    kept = before < p
    kept[:, 0] = True
    ordered = torch.where(kept, ordered, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(1, order, ordered)


@accepted("top_p_filter")
def with_the_inverse_order(logits, p):
    order = logits.argsort(dim=-1, descending=True, stable=True)
    probability = logits.softmax(-1).gather(-1, order)
    summed = F.pad(probability.cumsum(-1)[:, :-1], (1, 0), value=-1.0)
    return torch.where((summed < p).gather(-1, order.argsort(-1)), logits, -math.inf)


@accepted("top_p_filter")
def with_the_number_kept(logits, p):
    order = logits.argsort(dim=-1, descending=True)
    summed = logits.softmax(-1).gather(-1, order).cumsum(-1)
    needed = (summed < p).sum(-1, keepdim=True) + 1
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(logits.shape[1], device=logits.device).expand_as(order)
    )
    return logits.masked_fill(rank >= needed, -math.inf)


@accepted("top_p_filter")
def ascending_from_the_tail(logits, p):
    ordered, order = logits.sort(dim=-1)
    remove = ordered.softmax(-1).cumsum(-1) <= 1 - p
    remove[:, -1:] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@accepted("top_p_filter")
def without_a_gradient_and_on_a_clone(logits, p):
    with torch.no_grad():
        out = logits.clone()
        probability, order = out.softmax(-1).sort(-1, descending=True)
        rows = torch.arange(len(out), device=out.device)[:, None].expand_as(order)
        remove = probability.cumsum(-1) - probability >= p
        remove[:, 0] = False
        out[rows[remove], order[remove]] = -math.inf
        return out


@accepted("top_p_filter")
def with_vmap_over_rows(logits, p):
    def one(row):
        probability, order = row.softmax(0).sort(descending=True)
        kept = probability.cumsum(0) - probability < p
        kept = kept | (torch.arange(len(row), device=row.device) == 0)
        return torch.where(torch.zeros_like(kept).scatter(0, order, kept), row, -math.inf)

    return torch.vmap(one)(logits)


@accepted("top_p_filter")
def with_topk_in_float64(logits, p):
    ordered, order = logits.double().topk(logits.shape[-1], dim=-1)
    probability = torch.softmax(ordered, dim=-1)
    before = torch.cumsum(probability, dim=-1) - probability
    first = torch.arange(logits.shape[-1], device=logits.device) == 0
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, (before < p) | first)
    return torch.where(kept, logits, -math.inf)


@rejected("top_p_filter", by=("test_order", "test_values"), says="by their place")
def does_not_scatter_back(logits, p):
    probability = logits.softmax(-1).sort(-1, descending=True).values
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove, -math.inf)


@rejected("top_p_filter", by=("test_order", "test_values", "test_p_of_one"), says="sorted order")
def returns_sorted_logits(logits, p):
    ordered = logits.sort(-1, descending=True).values
    probability = ordered.softmax(-1)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return ordered.masked_fill(remove, -math.inf)


@rejected("top_p_filter", by=("test_order", "test_values"), says="scattered by it")
def gathers_instead_of_scattering(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.gather(1, order), -math.inf)


@rejected("top_p_filter", by=("test_reaches_p", "test_values", "test_one_token"), says="crosses p")
def removes_the_crossing_token(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) > p
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_reaches_p", says="crosses p")
def removes_the_crossing_token_but_not_the_top(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by=("test_p_of_one", "test_reaches_p"), says="least probable")
def removes_the_last_of_all(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) >= p - 1e-9
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_reaches_p", says="one token more")
def keeps_one_too_many(logits, p):
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    remove = (ordered.cumsum(-1) - ordered >= p).roll(1, -1)
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by=("test_p_of_zero", "test_one_token"), says="top one stays")
def nothing_stays_at_zero(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) - probability >= p
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_p_of_zero", says="nothing is removed")
def zero_means_no_filter(logits, p):
    return top_p_filter_by_hand(logits, p) if p else logits.clone()


@rejected("top_p_filter", by="test_p_of_one")
def one_means_no_tail(logits, p):
    return top_p_filter_by_hand(logits, min(p, 0.99))


@rejected("top_p_filter", by=("test_rows_are_independent", "test_values"))
def sums_over_the_batch(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(0) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by=("test_rows_are_independent", "test_values"))
def softmax_over_the_batch(logits, p):
    probability, order = logits.softmax(0).sort(-1, descending=True)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_rows_are_independent", says="decided together")
def the_longest_nucleus_for_all(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = (probability.cumsum(-1) - probability >= p).all(0, keepdim=True).repeat(len(logits), 1)
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_values")
def sums_the_logits(logits, p):
    ordered, order = logits.sort(-1, descending=True)
    remove = ordered.cumsum(-1) - ordered >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_values")
def compares_logits_with_p(logits, p):
    kept = logits >= p
    kept = kept.scatter(1, logits.argmax(-1, keepdim=True), True)
    return logits.masked_fill(~kept, -math.inf)


@rejected("top_p_filter", by="test_reaches_p", says="own probability")
def compares_each_probability_with_p(logits, p):
    return logits.masked_fill(logits.softmax(-1) < p, -math.inf)


@rejected("top_p_filter", by=("test_order", "test_values"))
def sorts_upwards(logits, p):
    probability, order = logits.softmax(-1).sort(-1)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by=("test_order", "test_values"), says="probabilities")
def returns_probabilities(logits, p):
    return top_p_filter_by_hand(logits, p).exp() * 0 + torch.where(
        top_p_filter_by_hand(logits, p).isinf(), -math.inf, logits.softmax(-1)
    )


@rejected("top_p_filter", by=("test_values", "test_order"), says="-inf")
def removed_ones_are_zero(logits, p):
    kept = top_p_filter_by_hand(logits, p)
    return kept.masked_fill(kept.isinf(), 0.0)


@rejected("top_p_filter", by="test_order")
def multiplies_by_the_mask(logits, p):
    kept = top_p_filter_by_hand(logits, p).isfinite()
    return logits * kept + -1e9 * ~kept


@rejected("top_p_filter", by="test_ties", says="alike")
def down_to_the_crossing_probability(logits, p):
    probability = logits.softmax(-1)
    ordered = probability.sort(-1, descending=True).values
    kept = ordered.cumsum(-1) - ordered < p
    kept[:, 0] = True
    lowest = ordered.masked_fill(~kept, math.inf).amin(-1, keepdim=True)
    return logits.masked_fill(probability < lowest, -math.inf)


@rejected("top_p_filter", by="test_ties", says="different")
def breaks_ties_by_chance(logits, p):
    shuffle = torch.randperm(logits.shape[1])
    back = shuffle.argsort()
    return top_p_filter_by_hand(logits[:, shuffle], p)[:, back]


@rejected("top_p_filter", by="test_one_token")
def squeezes_the_result(logits, p):
    return top_p_filter_by_hand(logits, p).squeeze()


@rejected("top_p_filter", by="test_removed_before")
def centres_with_the_mean(logits, p):
    weight = (logits - logits.mean(-1, keepdim=True)).exp()
    probability, order = (weight / weight.sum(-1, keepdim=True)).sort(-1, descending=True)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


@rejected("top_p_filter", by="test_leaves_logits_alone", says="logits")
def removes_in_place(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    remove = probability.cumsum(-1) - probability >= p
    remove[:, 0] = False
    logits[remove.scatter(1, order, remove)] = -math.inf
    return logits


@rejected("top_p_filter", by="test_no_loop")
def one_row_at_a_time(logits, p):
    return torch.cat([top_p_filter_by_hand(row[None], p) for row in logits])


@rejected("top_p_filter", by="test_no_loop")
def one_token_at_a_time(logits, p):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    out = torch.full_like(logits, -math.inf)
    reached = probability.new_zeros(len(logits), 1)
    for place in range(logits.shape[1]):
        token = order[:, place : place + 1]
        stays = (reached < p) | (place == 0)
        value = torch.where(stays, logits.gather(1, token), -math.inf)
        out = out.scatter(1, token, value)
        reached = reached + probability[:, place : place + 1]
    return out


def top_p_filter_by_hand(logits, p):
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    remove = ordered.cumsum(-1) - ordered >= p
    remove[:, 0] = False
    return logits.masked_fill(remove.scatter(1, order, remove), -math.inf)


# --- segment_softmax


@accepted("segment_softmax")
def maximum_of_a_table_that_starts_at_zero(x, seg, n):
    index = seg[:, None].expand(-1, x.shape[1])
    highest = x.new_zeros(n, x.shape[1])
    highest = highest.scatter_reduce(0, index, x, "amax", include_self=False)
    weight = torch.exp(x - highest[seg])
    total = x.new_zeros(n, x.shape[1]).scatter_add(0, index, weight)
    return weight / total.gather(0, index)


@accepted("segment_softmax")
def with_index_reduce(x, seg, n):
    highest = torch.full((n, x.size(1)), -torch.inf, dtype=x.dtype, device=x.device)
    highest.index_reduce_(0, seg, x.detach(), "amax")
    weight = (x - highest.index_select(0, seg)).exp()
    total = torch.zeros_like(highest).index_put((seg,), weight, accumulate=True)
    return weight / total[seg]


@accepted("segment_softmax")
def with_a_log_sum(x, seg, n):
    index = seg.unsqueeze(1).expand_as(x)
    highest = torch.full((n, x.shape[1]), -math.inf, dtype=x.dtype, device=x.device)
    highest = highest.scatter_reduce(0, index, x, reduce="amax")
    shifted = x - highest[seg]
    total = torch.zeros_like(highest).scatter_add_(0, index, shifted.exp())
    return (shifted - total[seg].log()).exp()


@accepted("segment_softmax")
def with_one_log_sum_exp(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax").detach()
    total = torch.zeros_like(highest).index_add(0, seg, (x - highest[seg]).exp())
    return (x - (total.log() + highest)[seg]).exp()


@accepted("segment_softmax")
def with_ids_that_occur(x, seg, n):
    present, seg = seg.unique(return_inverse=True)
    n = len(present)
    index = seg[:, None].repeat(1, x.shape[1])
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    weight = (x - highest[seg]).exp()
    return weight / x.new_zeros(n, x.shape[1]).index_add(0, seg, weight)[seg]


@accepted("segment_softmax")
def flattened_to_one_head(x, seg, n):
    m, heads = x.shape
    place = (seg[:, None] * heads + torch.arange(heads, device=x.device)).flatten()
    flat = x.flatten()
    lowest = torch.finfo(x.dtype).min
    highest = x.new_full((n * heads,), lowest).scatter_reduce(0, place, flat, "amax")
    weight = (flat - highest[place]).exp()
    total = x.new_zeros(n * heads).index_add(0, place, weight)
    return (weight / total[place]).view(m, heads)


@accepted("segment_softmax")
def sorted_and_reduced(x, seg, n):
    order = seg.argsort()
    count = torch.bincount(seg, minlength=n)
    rows = x[order]
    highest = torch.segment_reduce(rows.detach(), "max", lengths=count, axis=0, unsafe=True)
    weight = (x - highest[seg]).exp()
    total = torch.zeros_like(highest).index_add(0, seg, weight)
    return weight / total[seg]


@accepted("segment_softmax")
def with_a_small_number_below(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf)
    highest = highest.scatter_reduce(0, index, x.detach(), "amax", include_self=False)
    weight = (x - highest[seg]).exp()
    total = torch.zeros_like(highest).index_add(0, seg, weight)
    return weight / (total[seg] + 1e-16)


@accepted("segment_softmax")
def with_vmap_over_the_heads(x, seg, n):
    def one(head):
        highest = torch.full((n,), -math.inf, dtype=x.dtype, device=x.device)
        highest = highest.scatter_reduce(0, seg, head, "amax")
        weight = torch.exp(head - highest[seg])
        total = torch.zeros(n, dtype=x.dtype, device=x.device).scatter_add(0, seg, weight)
        return weight / total[seg]

    return torch.vmap(one, in_dims=1, out_dims=1)(x)


@accepted("segment_softmax")
def with_the_segments_sorted(x, seg, n):
    if not len(x):
        return x.clone()
    order = seg.argsort(stable=True)
    own, rows = seg[order], x[order]
    highest = x.new_full((n, x.shape[1]), -math.inf)
    highest = highest.index_reduce(0, own, rows.detach(), "amax")
    weight = (rows - highest[own]).exp()
    total = x.new_zeros(n, x.shape[1]).index_add(0, own, weight)
    return (weight / total[own])[order.argsort()]


def by_maximum(x, seg, n, highest):
    """The softmax of a segment, with what is subtracted given row by row."""
    weight = (x - highest).exp()
    total = x.new_zeros(n, x.shape[1]).index_add(0, seg, weight)
    return weight / total[seg]


@rejected("segment_softmax", by=("test_segments_far_apart", "test_no_rows"), says="of its own")
def one_maximum_for_all(x, seg, n):
    return by_maximum(x, seg, n, x.max())


@rejected("segment_softmax", by="test_segments_far_apart", says="of its own")
def one_maximum_for_each_head(x, seg, n):
    return by_maximum(x, seg, n, x.amax(0)) if len(x) else x


@rejected("segment_softmax", by="test_heads_far_apart", says="heads")
def one_maximum_for_all_heads(x, seg, n):
    highest = x.new_full((n,), -math.inf)
    if len(x):
        highest = highest.scatter_reduce(0, seg, x.detach().amax(1), "amax")
    return by_maximum(x, seg, n, highest[seg][:, None])


@rejected("segment_softmax", by=("test_large", "test_negative"), says="before exp")
def without_a_maximum(x, seg, n):
    return by_maximum(x, seg, n, 0)


@rejected("segment_softmax", by=("test_negative", "test_segments_far_apart"), says="before")
def zeros_take_part_in_the_maximum(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_zeros(n, x.shape[1]).scatter_reduce(0, index, x.detach(), "amax")
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by=("test_sums", "test_values"), says="should sum to 1")
def divides_by_the_mean(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    weight = (x - highest[seg]).exp()
    mean = torch.zeros_like(highest).scatter_reduce(0, index, weight, "mean", include_self=False)
    return weight / mean[seg]


@rejected("segment_softmax", by=("test_values", "test_sums"), says="over all rows")
def softmax_over_all_rows(x, seg, n):
    return x.softmax(0)


@rejected("segment_softmax", by=("test_values", "test_sums"), says="heads")
def softmax_over_the_heads(x, seg, n):
    return x.softmax(1)


@rejected("segment_softmax", by=("test_values", "test_sums"), says="logarithm")
def log_softmax(reference: str) -> str:
    return reference.replace("return weight / total[seg]", "return (weight / total[seg]).log()")


@rejected("segment_softmax", by=("test_values", "test_sums"))
def divides_by_the_sum_of_all_heads(reference: str) -> str:
    return reference.replace("weight / total[seg]", "weight / total.sum(1, keepdim=True)[seg]")


@rejected("segment_softmax", by=("test_values", "test_sums"), says="last of its weights")
def adds_by_index_assignment(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    weight = (x - highest[seg]).exp()
    total = torch.zeros_like(highest)
    total[seg] += weight
    return weight / total[seg]


@rejected("segment_softmax", by=("test_values", "test_sums"))
def sums_start_at_one(reference: str) -> str:
    return reference.replace("weight.new_zeros(highest.shape)", "weight.new_ones(highest.shape)")


@rejected("segment_softmax", by="test_memory", says="(512, 2000")
def with_a_dense_mask(x, seg, n):
    own = torch.arange(n, device=x.device)[:, None] == seg
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    weight = (x - highest[seg]).exp()
    total = own.to(x.dtype) @ weight
    return weight / total[seg]


@rejected("segment_softmax", by="test_memory", says="holds")
def with_a_dense_softmax(x, seg, n):
    strangers = torch.arange(n, device=x.device) != seg[:, None]
    table = x[:, None].expand(-1, n, -1).masked_fill(strangers[:, :, None], -math.inf)
    return table.softmax(0)[torch.arange(len(x), device=x.device), seg]


@rejected("segment_softmax", by="test_memory", says="2000, 2000")
def all_pairs_of_rows(x, seg, n):
    own = (seg[:, None] == seg)[:, :, None]
    pairs = torch.where(own, x, -math.inf)
    highest = pairs.amax(1) if len(x) else x
    weight = (x - highest.detach()).exp()
    return weight / (own * weight).sum(1)


@rejected("segment_softmax", by=("test_order_of_the_rows", "test_values"))
def expects_sorted_segments(x, seg, n):
    _, seg = seg.unique_consecutive(return_inverse=True)
    index = seg[:, None].expand_as(x)
    highest = x.new_full((len(x), x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    return by_maximum(x, seg, len(x), highest[seg])


@rejected("segment_softmax", by=("test_order_of_the_rows", "test_values"))
def leaves_the_rows_sorted(x, seg, n):
    order = seg.argsort(stable=True)
    x, seg = x[order], seg[order]
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by="test_empty_segments")
def as_many_segments_as_occur(x, seg, n):
    n = len(seg.unique())
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by="test_empty_segments")
def nan_from_the_empty_segments(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    highest = highest - 0 * highest.mean(0)
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by="test_no_rows")
def counts_segments_by_the_largest_id(x, seg, n):
    n = int(seg.max()) + 1
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by="test_gradient")
def cuts_the_sum_out_of_the_graph(reference: str) -> str:
    return reference.replace("return weight / total[seg]", "return weight / total.detach()[seg]")


@rejected("segment_softmax", by="test_gradient")
def fills_a_detached_buffer(x, seg, n):
    out = torch.zeros_like(x)
    with torch.no_grad():
        index = seg[:, None].expand_as(x)
        highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x, "amax")
        out += by_maximum(x, seg, n, highest[seg])
    return out


@rejected("segment_softmax", by="test_no_loop")
def one_segment_at_a_time(x, seg, n):
    out = torch.zeros_like(x)
    for place in range(n):
        rows = (seg == place).nonzero()[:, 0]
        out = out.index_copy(0, rows, x[rows].softmax(0))
    return out


@rejected("segment_softmax", by="test_no_loop")
def one_row_of_x_at_a_time(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf).scatter_reduce(0, index, x.detach(), "amax")
    weight = (x - highest[seg]).exp()
    total = list(x.new_zeros(n, x.shape[1]))
    for place, row in zip(seg.tolist(), weight, strict=True):
        total[place] = total[place] + row
    return weight / torch.stack(total)[seg]


@rejected("segment_softmax", by="test_device", says="device")
def tables_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "x.new_full((n, x.shape[1]), -math.inf)",
        "torch.full((n, x.shape[1]), -math.inf).to(x.dtype)",
    )


@rejected("segment_softmax", by="test_values", says="float64")
def tables_in_float32(x, seg, n):
    x = x.float()
    index = seg[:, None].expand_as(x)
    highest = torch.full((n, x.shape[1]), -math.inf, device=x.device)
    highest = highest.scatter_reduce(0, index, x.detach(), "amax")
    return by_maximum(x, seg, n, highest[seg])


@rejected("segment_softmax", by="test_leaves_its_arguments_alone", says="x")
def subtracts_in_place(x, seg, n):
    index = seg[:, None].expand_as(x)
    highest = x.new_full((n, x.shape[1]), -math.inf)
    highest = highest.scatter_reduce(0, index, x.detach(), "amax")
    x.data -= highest[seg]
    weight = x.exp()
    total = torch.zeros_like(highest).index_add(0, seg, weight)
    return weight / total[seg]
