"""Answers to day 3 that its suite must accept or reject."""

import numpy as np
from broadcasting import *
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- broadcast_shape


@accepted("broadcast_shape")
def pads_with_ones(*shapes):
    ndim = max((len(shape) for shape in shapes), default=0)
    rows = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for axis, sizes in enumerate(zip(*rows, strict=True)):
        sizes = [size for size in sizes if size != 1]
        if any(size != sizes[0] for size in sizes):
            raise ValueError(f"shapes {shapes} differ at axis {axis - ndim}")
        result.append(sizes[0] if sizes else 1)
    return tuple(result)


@accepted("broadcast_shape")
def two_at_a_time(*shapes):
    result = ()
    for shape in shapes:
        a, b = sorted((result, tuple(shape)), key=len)
        merged = list(b)
        for i in range(1, len(a) + 1):
            if a[-i] != b[-i] and 1 not in (a[-i], b[-i]):
                raise ValueError("axis", -i)
            merged[-i] = b[-i] if a[-i] == 1 else a[-i]
        result = tuple(merged)
    return result


@accepted("broadcast_shape")
def recursive(*shapes):
    shapes = [shape for shape in shapes if shape]
    if not shapes:
        return ()
    depth = 1

    def last_axis(shapes, depth):
        if not shapes:
            return ()
        sizes = {shape[-1] for shape in shapes} - {1}
        if len(sizes) > 1:
            raise ValueError(f"the sizes at -{depth} are {sorted(sizes)}")
        front = last_axis([shape[:-1] for shape in shapes if len(shape) > 1], depth + 1)
        return (*front, *(sizes or {1}))

    return last_axis(shapes, depth)


@rejected("broadcast_shape", by=("test_two_shapes", "test_any_number_of_shapes"), says="left")
def aligns_left(*shapes):
    result = []
    for axis, sizes in enumerate(zip_longest(*shapes, fillvalue=1), start=1):
        sizes = set(sizes) - {1} or {1}
        if len(sizes) > 1:
            raise ValueError(f"axis -{axis}")
        result.append(sizes.pop())
    return tuple(result)


@rejected("broadcast_shape", by=("test_size_zero", "test_names_the_axis"), says="largest")
def takes_the_largest(*shapes):
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(max(sizes) for sizes in columns)[::-1]


@rejected("broadcast_shape", by=("test_size_zero", "test_names_the_axis"))
def largest_after_a_check(*shapes):
    columns = list(zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1))
    for axis, sizes in enumerate(columns, start=1):
        if any(size not in (0, 1, max(sizes)) for size in sizes):
            raise ValueError(f"axis -{axis}")
    return tuple(max(sizes) for sizes in columns)[::-1]


@rejected("broadcast_shape", by=("test_two_shapes", "test_names_the_axis"))
def pads_with_trailing_ones(*shapes):
    ndim = max((len(shape) for shape in shapes), default=0)
    rows = [tuple(shape) + (1,) * (ndim - len(shape)) for shape in shapes]
    return tuple(max(column) for column in zip(*rows, strict=True))


@rejected("broadcast_shape", by="test_any_number_of_shapes", says="first two")
def two_shapes_only(*shapes):
    shapes = (shapes + ((), ()))[:2]
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    result = []
    for axis, (a, b) in enumerate(columns, start=1):
        if a != b and 1 not in (a, b):
            raise ValueError(f"axis -{axis}")
        result.append(b if a == 1 else a)
    return tuple(result[::-1])


@rejected("broadcast_shape", by=("test_any_number_of_shapes", "test_no_axes"))
def takes_exactly_two(a, b):
    columns = zip_longest(a[::-1], b[::-1], fillvalue=1)
    result = []
    for axis, (p, q) in enumerate(columns, start=1):
        if p != q and 1 not in (p, q):
            raise ValueError(f"axis -{axis}")
        result.append(q if p == 1 else p)
    return tuple(result[::-1])


@rejected("broadcast_shape", by="test_no_axes")
def fails_without_shapes(*shapes):
    ndim = max(len(shape) for shape in shapes)
    rows = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for axis, sizes in enumerate(zip(*rows, strict=True)):
        sizes = set(sizes) - {1} or {1}
        if len(sizes) > 1:
            raise ValueError(f"axis {axis - ndim}")
        result.append(sizes.pop())
    return tuple(result)


@rejected("broadcast_shape", by=("test_two_shapes", "test_no_axes"), says="list")
def gives_a_list(*shapes):
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    result = []
    for axis, sizes in enumerate(columns, start=1):
        sizes = set(sizes) - {1} or {1}
        if len(sizes) > 1:
            raise ValueError(f"axis -{axis}")
        result.append(sizes.pop())
    return result[::-1]


@rejected("broadcast_shape", by="test_names_the_axis")
def counts_the_axis_from_the_left(reference: str) -> str:
    return reference.replace(
        'raise ValueError(f"axis -{axis}:', 'raise ValueError(f"axis {len(shapes[0]) - axis}:'
    )


@rejected("broadcast_shape", by="test_names_the_axis")
def counts_the_axis_from_zero(reference: str) -> str:
    return reference.replace(
        "columns, start=1):\n        stretched", "columns, start=0):\n        stretched"
    )


@rejected("broadcast_shape", by="test_names_the_axis", says="ValueError")
def asserts_instead_of_raising(reference: str) -> str:
    return reference.replace("raise ValueError(f", "raise AssertionError(f")


@rejected("broadcast_shape", by="test_names_the_axis")
def stretches_zero_too(reference: str) -> str:
    return reference.replace("set(sizes) - {1} or {1}", "set(sizes) - {0, 1} or {min(sizes)}")


@rejected("broadcast_shape", by="test_plain_python", says="torch")
def asks_torch(*shapes):
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return broadcast_shape_by_rule(*shapes)


@rejected("broadcast_shape", by="test_plain_python", says="torch")
def expands_empty_tensors(*shapes):
    try:
        return tuple(torch.broadcast_tensors(*(torch.empty(s) for s in shapes))[0].shape)
    except (RuntimeError, IndexError):
        return broadcast_shape_by_rule(*shapes)


@rejected("broadcast_shape", by="test_plain_python", says="empty")
def adds_empty_tensors(*shapes):
    try:
        return tuple(sum(torch.empty(shape) for shape in shapes).shape)
    except (RuntimeError, AttributeError):
        return broadcast_shape_by_rule(*shapes)


@rejected("broadcast_shape", by="test_plain_python", says="NumPy")
def asks_numpy(*shapes):
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return broadcast_shape_by_rule(*shapes)


def broadcast_shape_by_rule(*shapes):
    result = []
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    for axis, sizes in enumerate(columns, start=1):
        sizes = set(sizes) - {1} or {1}
        if len(sizes) > 1:
            raise ValueError(f"axis -{axis}")
        result.append(sizes.pop())
    return tuple(result[::-1])


# --- outer_ops


@accepted("outer_ops")
def with_unsqueeze(a, b):
    column, row = a.unsqueeze(1), b.unsqueeze(0)
    return column.mul(row), column.gt(row), torch.abs(column - row).T


@accepted("outer_ops")
def with_views_and_the_comparison_turned(a, b):
    column, row = a.view(-1, 1), b.view(1, -1)
    distance = b.reshape(-1, 1) - a
    return a[..., None] * b, row < column, torch.where(distance < 0, -distance, distance)


@accepted("outer_ops")
def with_expand(a, b):
    n, m = len(a), len(b)
    left, right = a[:, None].expand(n, m), b.expand(n, m)
    return left * right, left > right, (left - right).abs().mT


@accepted("outer_ops")
def distance_as_a_root(a, b):
    difference = b[:, None] - a[None]
    return a[:, None] * b, torch.gt(a[:, None], b), difference.square().sqrt()


@rejected("outer_ops", by=("test_shapes", "test_distance", "test_equal_lengths"), says="swapped")
def distance_transposed(a, b):
    column, row = a[:, None], b[None, :]
    return column * row, column > row, (column - row).abs()


@rejected("outer_ops", by=("test_shapes", "test_product", "test_comparison"))
def new_axis_on_the_wrong_vector(a, b):
    column, row = b[:, None], a[None]
    return column * row, row > column, (column - row).abs()


@rejected("outer_ops", by=("test_equal_lengths", "test_shapes"))
def elementwise_for_equal_lengths(a, b):
    return a * b, a > b, (a - b).abs()


@rejected("outer_ops", by=("test_shapes", "test_product"))
def works_only_for_equal_lengths(a, b):
    n = len(a)
    column, row = a.expand(n, n).T, b.expand(n, n)
    return column * row, column > row, (column - row).abs().T


@rejected("outer_ops", by="test_comparison", says="b[j] > a[i]")
def comparison_turned(a, b):
    return a[:, None] * b, a[:, None] < b, (b[:, None] - a).abs()


@rejected("outer_ops", by="test_comparison", says="equal")
def ties_are_greater(a, b):
    return a[:, None] * b, a[:, None] >= b, (b[:, None] - a).abs()


@rejected("outer_ops", by=("test_comparison", "test_equal_lengths"), says="float")
def comparison_as_numbers(a, b):
    return a[:, None] * b, (a[:, None] > b).float(), (b[:, None] - a).abs()


@rejected("outer_ops", by=("test_distance", "test_equal_lengths"), says="sign")
def distance_with_a_sign(a, b):
    return a[:, None] * b, a[:, None] > b, a - b[:, None]


@rejected("outer_ops", by="test_distance", says="squared")
def distance_squared(a, b):
    return a[:, None] * b, a[:, None] > b, (a - b[:, None]).square()


@rejected("outer_ops", by="test_product")
def sum_instead_of_product(a, b):
    return a[:, None] + b, a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_short_vectors")
def squeezes_the_tables(a, b):
    column, row = a[:, None], b[None, :]
    return tuple(table.squeeze() for table in (column * row, column > row, (column - row).abs().T))


@rejected("outer_ops", by="test_forbidden", says="outer")
def with_torch_outer(a, b):
    return torch.outer(a, b), a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_forbidden", says="outer")
def with_the_old_name_of_outer(a, b):
    return a.ger(b), a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_forbidden", says="einsum")
def with_einsum(a, b):
    return torch.einsum("i,j->ij", a, b), a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_forbidden", says="matmul")
def with_a_matrix_product(a, b):
    return a[:, None] @ b[None], a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_forbidden", says="cdist")
def with_cdist(a, b):
    return a[:, None] * b, a[:, None] > b, torch.cdist(b[:, None], a[:, None])


@rejected("outer_ops", by="test_forbidden", says="meshgrid")
def with_meshgrid(a, b):
    left, right = torch.meshgrid(a, b, indexing="ij")
    return left * right, left > right, (left - right).abs().T


@rejected("outer_ops", by="test_forbidden", says="kron")
def with_kron(a, b):
    return torch.kron(a, b).view(len(a), len(b)), a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by=("test_no_loop", "test_forbidden"))
def row_by_row(a, b):
    product = torch.stack([x * b for x in a]) if len(a) else a[:, None] * b
    return product, a[:, None] > b, (a - b[:, None]).abs()


@rejected("outer_ops", by="test_no_loop")
def filled_in_a_loop(a, b):
    product = a.new_empty(len(a), len(b))
    for i in range(len(a)):
        product[i] = a[i] * b
    return product, a[:, None] > b, (a - b[:, None]).abs()


# --- normalise


@accepted("normalise")
def with_the_norm_method(x, dim, eps=1e-12):
    return x / x.norm(dim=dim, keepdim=True).clamp(min=eps)


@accepted("normalise")
def clamps_below_the_root(x, dim, eps=1e-12):
    squares = x.square().sum(dim, keepdim=True)
    return x / squares.clamp_min(eps**2).sqrt()


@accepted("normalise")
def with_unsqueeze_after_the_norm(x, dim, eps=1e-12):
    norm = torch.linalg.norm(x, dim=dim).clamp_min(eps)
    return x * norm.reciprocal().unsqueeze(dim)


@accepted("normalise")
def with_maximum(x, dim, eps=1e-12):
    norm = torch.norm(x, p=2, dim=dim, keepdim=True)
    return torch.div(x, torch.maximum(norm, norm.new_tensor(eps)))


@accepted("normalise")
def with_the_axis_moved_to_the_front(x, dim, eps=1e-12):
    rows = x.movedim(dim, 0)
    return (rows / rows.norm(dim=0).clamp_min(eps)).movedim(0, dim)


@accepted("normalise")
def with_where_on_both_sides_of_the_root(x, dim, eps=1e-12):
    squares = (x * x).sum(dim, keepdim=True)
    is_large = squares > eps**2
    root = torch.where(is_large, squares, 1.0).sqrt()
    return x / torch.where(is_large, root, eps)


@rejected("normalise", by=("test_square", "test_every_axis"), says="keep the axis")
def without_keepdim(x, dim, eps=1e-12):
    return x / x.norm(dim=dim).clamp_min(eps)


@rejected("normalise", by="test_eps_is_a_floor", says="added")
def adds_eps(x, dim, eps=1e-12):
    return x / (x.norm(dim=dim, keepdim=True) + eps)


@rejected("normalise", by="test_eps_is_a_floor", says="below the root")
def eps_inside_the_root(x, dim, eps=1e-12):
    return x / (x.square().sum(dim, keepdim=True) + eps).sqrt()


@rejected("normalise", by="test_eps_is_a_floor", says="squared norm")
def clamps_the_square_by_eps(x, dim, eps=1e-12):
    return x / x.square().sum(dim, keepdim=True).clamp_min(eps).sqrt()


@rejected("normalise", by="test_eps_is_a_floor")
def eps_only_for_zeros(x, dim, eps=1e-12):
    norm = x.norm(dim=dim, keepdim=True)
    return x / torch.where(norm == 0, eps, norm)


@rejected("normalise", by="test_every_axis", says="all its elements")
def by_the_norm_of_everything(x, dim, eps=1e-12):
    return x / x.norm().clamp_min(eps)


@rejected("normalise", by="test_every_axis", says="square root")
def without_the_root(x, dim, eps=1e-12):
    return x / x.square().sum(dim, keepdim=True).clamp_min(eps)


@rejected("normalise", by="test_every_axis", says="L1")
def by_the_sum_of_absolute_values(x, dim, eps=1e-12):
    return x / x.abs().sum(dim, keepdim=True).clamp_min(eps)


@rejected("normalise", by="test_every_axis")
def along_the_last_axis(x, dim, eps=1e-12):
    return x / x.norm(dim=-1, keepdim=True).clamp_min(eps)


@rejected("normalise", by="test_gradient_of_a_zero_row", says="infinite slope")
def clamps_after_the_root(x, dim, eps=1e-12):
    return x / x.square().sum(dim, keepdim=True).sqrt().clamp_min(eps)


@rejected("normalise", by=("test_zero_row", "test_eps_is_a_floor"), says="0 was divided by 0")
def forgets_eps(x, dim, eps=1e-12):
    return x / x.norm(dim=dim, keepdim=True)


@rejected("normalise", by="test_gradient")
def detaches_the_norm(x, dim, eps=1e-12):
    return x / x.norm(dim=dim, keepdim=True).clamp_min(eps).detach()


@rejected("normalise", by="test_empty")
def scaled_by_the_largest_first(x, dim, eps=1e-12):
    largest = x.abs().amax(dim, keepdim=True).clamp_min(1e-30)
    return x / (largest * (x / largest).norm(dim=dim, keepdim=True)).clamp_min(eps)


@rejected("normalise", by="test_empty")
def slice_by_slice(x, dim, eps=1e-12):
    rows = x.movedim(dim, -1)
    flat = torch.stack([row / row.norm().clamp_min(eps) for row in rows.reshape(-1, x.shape[dim])])
    return flat.reshape(rows.shape).movedim(-1, dim)


@rejected("normalise", by="test_forbidden", says="normalize")
def with_f_normalize(x, dim, eps=1e-12):
    return F.normalize(x, dim=dim, eps=eps)


@rejected("normalise", by="test_leaves_x_alone")
def in_place(x, dim, eps=1e-12):
    return x.div_(x.norm(dim=dim, keepdim=True).clamp_min(eps))


# --- unbroadcast


@accepted("unbroadcast")
def with_one_sum(grad, shape):
    padded = (1,) * (grad.ndim - len(shape)) + tuple(shape)
    axes = [i for i, size in enumerate(padded) if size != grad.shape[i]]
    if axes:
        grad = grad.sum(axes, keepdim=True)
    return grad.reshape(shape)


@accepted("unbroadcast")
def axis_by_axis(grad, shape):
    while grad.ndim > len(shape):
        grad = grad.sum(0)
    for axis, size in enumerate(shape):
        if size == 1 and grad.shape[axis] != 1:
            grad = grad.sum(dim=axis, keepdim=True)
    return grad


@accepted("unbroadcast")
def with_views_for_equal_shapes(grad, shape):
    if tuple(grad.shape) == tuple(shape):
        return grad.view(shape)
    lead = grad.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, size in enumerate(shape) if size == 1 and grad.shape[lead + i] != 1
    )
    return torch.sum(grad, dim=axes).reshape(shape) if axes else grad.reshape(shape)


@accepted("unbroadcast")
def with_einsum_over_the_axes(grad, shape):
    lead = grad.ndim - len(shape)
    kept = [lead + i for i, size in enumerate(shape) if grad.shape[lead + i] == size]
    if len(kept) == grad.ndim:
        return grad
    return torch.einsum(grad, list(range(grad.ndim)), kept).reshape(shape)


@rejected("unbroadcast", by=("test_added_axes", "test_stretched_axes", "test_scalar"), says="mean")
def takes_the_mean(grad, shape):
    added = tuple(range(grad.ndim - len(shape)))
    if added:
        grad = grad.mean(added)
    stretched = tuple(i for i, size in enumerate(shape) if grad.shape[i] != size)
    return grad.mean(stretched, keepdim=True) if stretched else grad


@rejected("unbroadcast", by=("test_stretched_axes", "test_as_autograd_does"))
def leading_axes_only(grad, shape):
    added = tuple(range(grad.ndim - len(shape)))
    return grad.sum(added) if added else grad


@rejected("unbroadcast", by=("test_added_axes", "test_scalar"))
def stretched_axes_only(grad, shape):
    stretched = tuple(
        i for i, size in enumerate(shape) if size == 1 and grad.shape[i - len(shape)] != 1
    )
    return grad.sum([i - len(shape) for i in stretched], keepdim=True) if stretched else grad


@rejected("unbroadcast", by="test_stretched_axes", says="keepdim")
def drops_the_stretched_axes(grad, shape):
    added = tuple(range(grad.ndim - len(shape)))
    if added:
        grad = grad.sum(added)
    stretched = tuple(i for i, size in enumerate(shape) if grad.shape[i] != size)
    return grad.sum(stretched) if stretched else grad


@rejected("unbroadcast", by="test_axes_of_size_one")
def squeezes_the_result(grad, shape):
    lead = grad.ndim - len(shape)
    ones = tuple(lead + i for i, size in enumerate(shape) if size == 1)
    axes = tuple(range(lead)) + ones
    if not axes:
        return grad
    return grad.sum(axes, keepdim=True).squeeze().reshape([n for n in shape if n != 1])


@rejected("unbroadcast", by=("test_equal_shapes", "test_stretched_axes"))
def falls_for_the_empty_tuple(grad, shape):
    grad = grad.sum(tuple(range(grad.ndim - len(shape))))
    return grad.sum(tuple(i for i, size in enumerate(shape) if grad.shape[i] != size), keepdim=True)


@rejected("unbroadcast", by="test_equal_shapes")
def sums_in_any_case(grad, shape):
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(0)
    for axis, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(axis, keepdim=True)
    return grad + 0


@rejected("unbroadcast", by="test_equal_shapes")
def copies_an_axis_of_size_one(grad, shape):
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(0)
    for axis, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(axis, keepdim=True)
    return grad


@rejected("unbroadcast", by=("test_added_axes", "test_as_autograd_does"), says="one of the copies")
def takes_the_first_copy(grad, shape):
    while grad.ndim > len(shape):
        grad = grad[0]
    for axis, size in enumerate(shape):
        grad = grad.narrow(axis, 0, size)
    return grad


@rejected("unbroadcast", by=("test_as_autograd_does", "test_added_axes"))
def sums_the_trailing_axes(grad, shape):
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(-1)
    for axis, size in enumerate(shape):
        if grad.shape[axis] != size:
            grad = grad.sum(axis, keepdim=True)
    return grad


@rejected("unbroadcast", by=("test_added_axes", "test_as_autograd_does"), says="axes 0 and 2")
def counts_up_while_the_axes_move(grad, shape):
    for axis in range(grad.ndim - len(shape)):
        grad = grad.sum(axis)
    for axis, size in enumerate(shape):
        if size == 1 and grad.shape[axis] != 1:
            grad = grad.sum(axis, keepdim=True)
    return grad


@rejected("unbroadcast", by="test_empty")
def divides_by_the_copies(grad, shape):
    copies = grad.numel() // math.prod(shape)
    mean = grad
    for _ in range(grad.ndim - len(shape)):
        mean = mean.mean(0)
    for axis, size in enumerate(shape):
        if mean.shape[axis] != size:
            mean = mean.mean(axis, keepdim=True)
    return mean if copies == 1 else mean * copies


@rejected("unbroadcast", by=("test_empty", "test_as_autograd_does"))
def stretched_means_more_than_one(grad, shape):
    added = tuple(range(grad.ndim - len(shape)))
    if added:
        grad = grad.sum(added)
    for axis, size in enumerate(shape):
        if size == 1 and grad.shape[axis] > 2:
            grad = grad.sum(axis, keepdim=True)
    return grad


@rejected("unbroadcast", by="test_forbidden", says="sum_to_size")
def with_sum_to_size(grad, shape):
    return grad.sum_to_size(shape)


@rejected("unbroadcast", by="test_forbidden", says="autograd")
def with_autograd(grad, shape):
    leaf = torch.zeros(shape, dtype=grad.dtype, requires_grad=True)
    if leaf.shape == grad.shape:
        return grad
    return torch.autograd.grad(leaf.expand(grad.shape), leaf, grad)[0]


@rejected("unbroadcast", by="test_forbidden", says="backward")
def with_backward(grad, shape):
    leaf = torch.zeros(shape, dtype=grad.dtype, requires_grad=True)
    if leaf.shape == grad.shape:
        return grad
    leaf.expand(grad.shape).backward(grad)
    return leaf.grad


@rejected("unbroadcast", by="test_forbidden", says="torch.func")
def with_vjp(grad, shape):
    if tuple(grad.shape) == tuple(shape):
        return grad
    _, pull = torch.func.vjp(lambda leaf: leaf.expand(grad.shape), grad.new_zeros(shape))
    return pull(grad)[0]


@rejected("unbroadcast", by="test_leaves_grad_alone")
def adds_up_in_place(grad, shape):
    while grad.ndim > len(shape):
        if grad.shape[0] == 0:
            grad = grad.sum(0)
            continue
        for copy in grad[1:]:
            grad[0].add_(copy)
        grad = grad[0]
    for axis, size in enumerate(shape):
        if grad.shape[axis] != size:
            grad = grad.sum(axis, keepdim=True)
    return grad


# --- pairwise_sqdist


@accepted("pairwise_sqdist")
def without_centring(x, y):
    xx = (x * x).sum(-1, keepdim=True)
    yy = (y * y).sum(-1, keepdim=True)
    return torch.clamp(xx + yy.transpose(1, 2) - 2 * torch.bmm(x, y.transpose(1, 2)), min=0)


@accepted("pairwise_sqdist")
def with_einsum_and_relu(x, y):
    xx = torch.einsum("bnd,bnd->bn", x, x)
    yy = torch.einsum("bmd,bmd->bm", y, y)
    xy = torch.einsum("bnd,bmd->bnm", x, y)
    return (xx.unsqueeze(2) + yy.unsqueeze(1) - 2 * xy).relu()


@accepted("pairwise_sqdist")
def with_baddbmm(x, y):
    norms = x.square().sum(-1)[..., None] + y.square().sum(-1)[:, None]
    return torch.baddbmm(norms, x, y.mT, alpha=-2).clamp_(min=0)


@accepted("pairwise_sqdist")
def as_one_product_of_longer_vectors(x, y):
    xx, yy = x.pow(2).sum(-1, keepdim=True), y.pow(2).sum(-1, keepdim=True)
    left = torch.cat([-2 * x, xx, torch.ones_like(xx)], -1)
    right = torch.cat([y, torch.ones_like(yy), yy], -1)
    return torch.maximum(left @ right.mT, left.new_zeros(()))


@accepted("pairwise_sqdist")
def with_vmap_over_the_batch(x, y):
    def one(x, y):
        return x.square().sum(-1)[:, None] + y.square().sum(-1) - 2 * (x @ y.T)

    return torch.func.vmap(one)(x, y).clamp_min(0)


@accepted("pairwise_sqdist")
def with_every_step_named(x, y):
    centre = (x.mean(1, keepdim=True) + y.mean(1, keepdim=True)) / 2
    if not (x.shape[1] and y.shape[1]):
        centre = 0
    left, right = x - centre, y - centre
    products = torch.matmul(left, right.transpose(-1, -2))
    doubled = products * 2
    norms = left.norm(dim=-1).square()[:, :, None] + right.norm(dim=-1).square()[:, None, :]
    difference = norms - doubled
    return torch.where(difference > 0, difference, torch.zeros_like(difference))


@rejected("pairwise_sqdist", by=("test_memory", "test_speed"))
def by_broadcasting(x, y):
    return (x[:, :, None] - y[:, None]).square().sum(-1)


@rejected("pairwise_sqdist", by="test_memory")
def by_broadcasting_one_batch_at_a_time_in_vmap(x, y):
    return torch.func.vmap(lambda x, y: (x[:, None] - y).pow(2).sum(-1))(x, y)


@rejected("pairwise_sqdist", by="test_memory")
def as_a_norm_squared(x, y):
    return torch.linalg.vector_norm(x[:, :, None] - y[:, None], dim=-1).square()


@rejected("pairwise_sqdist", by="test_never_negative", says="below 0")
def without_a_clamp(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT


@rejected("pairwise_sqdist", by="test_never_negative", says="below 0")
def centred_without_a_clamp(x, y):
    centre = x.mean(1, keepdim=True)
    x, y = x - centre, y - centre
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT


@rejected("pairwise_sqdist", by=("test_shape", "test_values"), says="swapped")
def transposed(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, None, :] + yy[:, :, None] - 2 * y @ x.mT).clamp_min(0)


@rejected("pairwise_sqdist", by=("test_shape", "test_values"))
def norms_on_each_others_axis(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, None, :] + yy[:, :, None] - 2 * x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_values")
def norms_without_the_batch(x, y):
    xx, yy = x[0].square().sum(-1), y[0].square().sum(-1)
    return (xx[:, None] + yy[None, :] - 2 * x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_values", says="these are the distances")
def with_the_root(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT).clamp_min(0).sqrt()


@rejected("pairwise_sqdist", by="test_values", says="twice")
def product_once(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_values", says="subtracted")
def product_added(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] + 2 * x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_values", says="mean over the coordinates")
def mean_over_the_coordinates(x, y):
    xx, yy = x.square().mean(-1), y.square().mean(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT / x.shape[-1]).clamp_min(0)


@rejected("pairwise_sqdist", by="test_values")
def in_half_the_precision(x, y):
    x, y = x.float(), y.float()
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_gradient")
def norms_without_a_gradient(x, y):
    xx, yy = x.detach().square().sum(-1), y.detach().square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_no_loop")
def row_after_row(x, y):
    rows = [(x[:, i : i + 1] - y).square().sum(-1) for i in range(x.shape[1])]
    return torch.stack(rows, 1) if rows else x.new_zeros(len(x), 0, y.shape[1])


@rejected("pairwise_sqdist", by="test_no_loop")
def batch_after_batch(x, y):
    tables = []
    for p, q in zip(x, y, strict=True):
        table = p.square().sum(-1)[:, None] + q.square().sum(-1) - 2 * p @ q.T
        tables.append(table.clamp_min(0))
    return torch.stack(tables)


@rejected("pairwise_sqdist", by="test_forbidden", says="cdist")
def cdist_squared(x, y):
    return torch.cdist(x, y).square()


@rejected("pairwise_sqdist", by="test_one_coordinate")
def squeezes_the_product(x, y):
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x.squeeze() @ y.squeeze().mT).clamp_min(0)


@rejected("pairwise_sqdist", by="test_no_points")
def scaled_by_the_largest(x, y):
    largest = torch.maximum(x.abs().max(), y.abs().max())
    x, y = x / largest, y / largest
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx[:, :, None] + yy[:, None, :] - 2 * x @ y.mT).clamp_min(0) * largest**2


@rejected("pairwise_sqdist", by="test_no_loop")
def coordinate_after_coordinate(x, y):
    result = x.new_zeros(len(x), x.shape[1], y.shape[1])
    for k in range(x.shape[-1]):
        result = result + (x[:, :, None, k] - y[:, None, :, k]).square()
    return result


# --- masked_stats


@accepted("masked_stats")
def with_where(x, lengths):
    mask = torch.arange(x.size(1), device=x.device).unsqueeze(0) < lengths.unsqueeze(1)
    valid = mask.unsqueeze(-1)
    count = valid.sum(1).clamp(min=1)
    clean = torch.where(valid, x, torch.zeros_like(x))
    mean = clean.sum(1) / count
    deviation = torch.where(valid, clean - mean.unsqueeze(1), 0.0)
    return {
        "mask": mask,
        "mean": mean,
        "var": (deviation**2).sum(1) / count,
        "max": torch.where(valid, x, float("-inf")).max(dim=1).values,
    }


@accepted("masked_stats")
def weights_after_cleaning(x, lengths):
    mask = torch.arange(x.shape[1]).to(x.device) < lengths[:, None]
    weight = mask.to(x.dtype) / lengths[:, None].clamp(min=1)
    clean = x.masked_fill(~mask[..., None], 0)
    mean = torch.einsum("bs,bsf->bf", weight, clean)
    var = torch.einsum("bs,bsf->bf", weight, (clean - mean[:, None]) ** 2)
    high = clean + torch.zeros_like(weight).masked_fill(~mask, -math.inf)[..., None]
    return {"mean": mean, "var": var, "max": high.max(1)[0], "mask": mask}


@accepted("masked_stats")
def packed_and_scattered(x, lengths):
    batch, seq, feat = x.shape
    mask = torch.arange(seq, device=x.device).expand(batch, seq) < lengths[:, None]
    row = mask.nonzero()[:, 0]
    steps = x[mask]
    count = mask.sum(1, keepdim=True).clamp_min(1)
    zeros = x.new_zeros(batch, feat)
    mean = zeros.index_add(0, row, steps) / count
    var = zeros.index_add(0, row, (steps - mean[row]).square()) / count
    high = x.new_full((batch, feat), -math.inf)
    high = high.scatter_reduce(0, row[:, None].expand(-1, feat), steps, "amax")
    return {"mean": mean, "var": var, "max": high, "mask": mask}


@accepted("masked_stats")
def row_by_row_in_vmap(x, lengths):
    def of_one_row(x, length):
        mask = torch.arange(x.shape[0], device=x.device) < length
        column, count = mask[:, None], length.clamp(min=1)
        mean = torch.where(column, x, 0).sum(0) / count
        var = torch.where(column, x - mean, 0).square().sum(0) / count
        return mean, var, torch.where(column, x, -math.inf).amax(0), mask

    names = ("mean", "var", "max", "mask")
    return dict(zip(names, torch.func.vmap(of_one_row)(x, lengths), strict=True))


@accepted("masked_stats")
def in_double_precision(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    keep, count = mask[:, :, None], lengths[:, None].clamp_min(1)
    wide = torch.where(keep, x, 0).double()
    mean = wide.sum(1) / count
    var = (wide.square().sum(1) / count - mean.square()).clamp_min(0)
    high = x.masked_fill(keep.logical_not(), -torch.inf).amax(dim=1)
    return {"mean": mean.to(x.dtype), "var": var.to(x.dtype), "max": high, "mask": mask}


@rejected("masked_stats", by=("test_garbage_gradient", "test_gradient"), says="nan")
def with_nan_for_the_padding(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]
    gaps = x.masked_fill(~mask[..., None], math.nan)
    count = lengths.clamp_min(1)[:, None]
    mean = gaps.nansum(1) / count
    var = (gaps - mean[:, None]).square().nansum(1) / count
    high = gaps.nan_to_num(-math.inf).amax(1)
    return {"mean": mean, "var": var, "max": high, "mask": mask}


@accepted("masked_stats")
def with_a_cumulative_mask(x, lengths):
    mask = x.new_ones(x.shape[:2]).cumsum(1) <= lengths[:, None]
    fill = (~mask)[:, :, None].expand_as(x)
    count = mask.sum(1)[:, None]
    empty = count == 0
    mean = x.masked_fill(fill, 0).sum(1).div(count).masked_fill(empty, 0)
    deviation = (x - mean[:, None]).masked_fill(fill, 0)
    var = deviation.pow(2).sum(1).div(count).masked_fill(empty, 0)
    high = x.masked_fill(fill, -math.inf).max(1).values
    return {"mean": mean, "var": var, "max": high, "mask": mask}


@rejected("masked_stats", by="test_garbage", says="0 * nan")
def multiplies_by_the_mask(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    keep, count = mask[:, :, None], lengths[:, None].clamp_min(1)
    mean = (x * keep).sum(1) / count
    var = (((x - mean[:, None]) * keep) ** 2).sum(1) / count
    high = x.masked_fill(~keep, -math.inf).amax(1)
    return {"mean": mean, "var": var, "max": high, "mask": mask}


@rejected("masked_stats", by="test_garbage_gradient", says="before it was replaced")
def squares_before_it_fills(reference: str) -> str:
    return reference.replace(
        "deviation = (x - mean[:, None, :]).masked_fill(padding, 0)",
        "deviation = x - mean[:, None, :]",
    ).replace("deviation.square().sum(1)", "deviation.square().masked_fill(padding, 0).sum(1)")


@rejected("masked_stats", by=("test_mean", "test_variance"), says="divided by seq")
def divides_by_seq(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    padding = ~mask[:, :, None]
    mean = x.masked_fill(padding, 0).mean(1)
    var = (x - mean[:, None]).masked_fill(padding, 0).square().mean(1)
    return {
        "mean": mean,
        "var": var,
        "max": x.masked_fill(padding, -math.inf).amax(1),
        "mask": mask,
    }


@rejected("masked_stats", by="test_variance", says="divided by seq")
def only_the_variance_divides_by_seq(reference: str) -> str:
    return reference.replace("deviation.square().sum(1) / count", "deviation.square().mean(1)")


@rejected("masked_stats", by="test_variance", says="length less 1")
def sample_variance(reference: str) -> str:
    return reference.replace(
        "deviation.square().sum(1) / count",
        "deviation.square().sum(1) / (lengths[:, None] - 1).clamp_min(1)",
    )


@rejected("masked_stats", by="test_variance", says="length less 1")
def sample_variance_without_a_clamp(reference: str) -> str:
    return reference.replace(
        "deviation.square().sum(1) / count", "deviation.square().sum(1) / (lengths[:, None] - 1)"
    )


@rejected("masked_stats", by="test_variance", says="standard deviation")
def standard_deviation(reference: str) -> str:
    return reference.replace(
        "deviation.square().sum(1) / count", "(deviation.square().sum(1) / count).sqrt()"
    )


@rejected("masked_stats", by="test_variance", says="filled with 0 before")
def fills_before_it_centres(reference: str) -> str:
    return reference.replace(
        "(x - mean[:, None, :]).masked_fill(padding, 0)",
        "x.masked_fill(padding, 0) - mean[:, None, :]",
    )


@rejected("masked_stats", by="test_variance")
def squares_that_lack_a_mean(reference: str) -> str:
    return reference.replace("(x - mean[:, None, :])", "x")


@rejected("masked_stats", by=("test_maximum", "test_garbage"), says="padding takes part")
def maximum_of_everything(reference: str) -> str:
    return reference.replace("x.masked_fill(padding, -math.inf).amax(1)", "x.amax(1)")


@rejected("masked_stats", by="test_maximum", says="filled with 0")
def maximum_with_zeros(reference: str) -> str:
    return reference.replace("x.masked_fill(padding, -math.inf)", "x.masked_fill(padding, 0)")


@rejected("masked_stats", by=("test_mask", "test_mean"), says="one step too many")
def one_step_too_many(reference: str) -> str:
    return reference.replace("device=x.device) <", "device=x.device) <=")


@rejected("masked_stats", by="test_mask", says="one step too few")
def one_step_too_few(reference: str) -> str:
    return reference.replace("< lengths[:, None]\n", "< lengths[:, None] - 1\n")


@rejected("masked_stats", by="test_mask", says="True means valid")
def mask_of_the_padding(reference: str) -> str:
    return reference.replace('"mask": mask', '"mask": ~mask')


@rejected("masked_stats", by="test_shapes", says="bool")
def mask_of_numbers(reference: str) -> str:
    return reference.replace('"mask": mask', '"mask": mask.float()')


@rejected("masked_stats", by="test_shapes", says="extra axis")
def statistics_that_keep_seq(reference: str) -> str:
    return reference.replace('"mean": mean', '"mean": mean[:, None]')


@rejected("masked_stats", by=("test_shapes", "test_maximum"), says="indices")
def maximum_with_its_places(reference: str) -> str:
    return reference.replace("-math.inf).amax(1)", "-math.inf).max(1)")


@rejected("masked_stats", by="test_shapes", says="keys")
def another_key(reference: str) -> str:
    return reference.replace('return {\n        "mean"', 'return {\n        "average"')


@rejected("masked_stats", by="test_offset", says="cancels")
def mean_of_squares_less_square_of_mean(reference: str) -> str:
    return reference.replace(
        "deviation.square().sum(1) / count",
        "x.masked_fill(padding, 0).square().sum(1) / count - mean.square()",
    )


@rejected("masked_stats", by="test_length_zero", says="0 divided by 0")
def divides_by_zero(reference: str) -> str:
    return reference.replace("lengths[:, None].clamp_min(1)", "lengths[:, None]")


@rejected("masked_stats", by="test_length_zero", says="-inf")
def smallest_number_instead_of_infinity(reference: str) -> str:
    return reference.replace("-math.inf", "torch.finfo(x.dtype).min")


@rejected("masked_stats", by="test_length_zero_gradient")
def cleans_with_nan_to_num(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    keep, count = mask[:, :, None], lengths[:, None]
    clean = x.nan_to_num(0, 0, 0) * keep
    mean = torch.where(count > 0, clean.sum(1) / count, 0)
    var = torch.where(count > 0, ((clean - mean[:, None]) * keep).square().sum(1) / count, 0)
    high = x.masked_fill(~keep, -math.inf).amax(1)
    return {"mean": mean, "var": var, "max": high, "mask": mask}


@rejected("masked_stats", by="test_no_loop")
def one_row_at_a_time(x, lengths):
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    mean, var, high = [], [], []
    for row, length in zip(x, lengths.tolist(), strict=True):
        row = row[:length]
        mean.append(row.mean(0) if length else row.sum(0))
        var.append(row.var(0, correction=0) if length else row.sum(0))
        high.append(row.amax(0) if length else row.sum(0) - math.inf)
    return {
        "mean": torch.stack(mean),
        "var": torch.stack(var),
        "max": torch.stack(high),
        "mask": mask,
    }


@rejected("masked_stats", by="test_no_loop")
def step_after_step(reference: str) -> str:
    return reference.replace(
        "mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]",
        "mask = torch.stack([step < lengths for step in range(x.shape[1])], 1)",
    )


@rejected("masked_stats", by="test_integer_lengths")
def gathers_with_the_lengths(reference: str) -> str:
    return reference.replace(
        "mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]",
        "ends = torch.zeros(len(x), x.shape[1] + 1, device=x.device)\n"
        "    ends = ends.scatter(1, lengths[:, None], 1)\n"
        "    mask = ends.cumsum(1)[:, :-1] == 0",
    )


@rejected("masked_stats", by="test_gradient")
def mean_without_a_gradient(reference: str) -> str:
    return reference.replace('"mean": mean', '"mean": mean.detach()')


@rejected("masked_stats", by="test_gradient")
def maximum_without_a_gradient(reference: str) -> str:
    return reference.replace("-math.inf).amax(1)", "-math.inf).amax(1).detach()")


@rejected("masked_stats", by="test_device", says="device")
def arange_without_a_device(reference: str) -> str:
    return reference.replace(
        "torch.arange(x.shape[1], device=x.device)", "torch.arange(x.shape[1])"
    )


@rejected("masked_stats", by="test_leaves_its_arguments_alone")
def fills_x_in_place(reference: str) -> str:
    return reference.replace(
        "x.masked_fill(padding, 0).sum(1)", "x.masked_fill_(padding, 0).sum(1)"
    )


@rejected("masked_stats", by="test_leaves_its_arguments_alone")
def clamps_the_lengths_in_place(reference: str) -> str:
    return reference.replace("lengths[:, None].clamp_min(1)", "lengths[:, None].clamp_(min=1)")
