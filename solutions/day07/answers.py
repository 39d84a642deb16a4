"""Answers to day 7 that its suite must accept or reject."""

import re
from math import prod

import torch
from cheat_sheet import *

from grader.answers import accepted, rejected


def with_rows(reference: str, **cells: str) -> str:
    """The reference with other cells in some of the given rows: `r3="((2,), (1,), 'view')"`."""
    for name, text in cells.items():
        reference = re.sub(
            rf"^        {name[1:]}: .*$", f"        {name[1:]}: {text},", reference, flags=re.M
        )
    return reference


def in_own_rows(reference: str, old: str, new: str) -> str:
    """The reference with a text replaced in the own rows only."""
    start = reference.index("def own_rows")
    end = reference.index("### END SOLUTION", start)
    return reference[:start] + reference[start:end].replace(old, new) + reference[end:]


# --- given_rows


@accepted("given_rows")
def any_stride_on_axes_of_size_one(reference: str) -> str:
    return with_rows(
        reference,
        r5='((3, 1, 5), (1, 0, 3), "view")',
        r7='((3, 1, 5), (5, 77, 1), "view")',
    )


@accepted("given_rows")
def rows_as_lists(reference: str) -> str:
    return with_rows(reference, r1='[[5, 3, 2], [1, 5, 15], "view"]')


@accepted("given_rows")
def parsed_from_a_text():
    text = """
        5 3 2 | 1 5 15 | view
        5 2 3 | 1 15 5 | view
        2 5 3 | 15 1 5 | view
        3 5 2 | 2 6 1  | view
        3 1 5 | 1 1 3  | view
        3 5   | 10 1   | view
        3 1 5 | 5 5 1  | view
        2 3 5 | 0 1 0  | view
        3 5   | 2 6    | view
        3 4   | 7 2    | view
        2 7   | 7 1    | copy
        2 3 3 | 7 2 1  | view
        3 10  | 10 1   | view
        6     | 1      | copy
        6     | 1      | copy
        2 15  | 30 1   | view
        2 3   | 3 1    | view
        3 2   | 2 1    | copy
        6 15  | 15 1   | copy
        3 2   | 1 3    | copy
    """
    rows = {}
    for number, line in enumerate(text.strip().splitlines(), start=1):
        shape, stride, memory = line.split("|")
        rows[number] = (
            tuple(map(int, shape.split())),
            tuple(map(int, stride.split())),
            memory.strip(),
        )
    return rows


@rejected("given_rows", by="test_rows", says="first that is missing is 20")
def a_row_is_missing(reference: str) -> str:
    return re.sub(r"^        20: .*\n", "", reference, flags=re.M)


@rejected("given_rows", by="test_rows", says="row 3")
def a_row_of_two_entries(reference: str) -> str:
    return with_rows(reference, r3="((2, 5, 3), (15, 1, 5))")


@rejected("given_rows", by="test_rows", says="dict")
def a_list_of_rows(reference: str) -> str:
    return reference.replace("    return {\n        1:", "    return list({\n        1:").replace(
        '(1, 3), "copy"),\n    }\n', '(1, 3), "copy"),\n    }.values())\n'
    )


@rejected("given_rows", by="test_predicted", says="predict")
def asks_torch():
    rows = {}
    for number, (op, shape, stride) in GIVEN.items():
        x = torch.empty_strided(shape, stride)
        result = eval(op, {"x": x, "torch": torch})
        shares = result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        rows[number] = (tuple(result.shape), result.stride(), "view" if shares else "copy")
    return rows


@rejected("given_rows", by="test_strides_where_axes_move", says="keeps the storage's order")
def contiguous_after_permute(reference: str) -> str:
    return with_rows(
        reference,
        r1='((5, 3, 2), (6, 2, 1), "view")',
        r2='((5, 2, 3), (6, 3, 1), "view")',
        r3='((2, 5, 3), (15, 3, 1), "view")',
    )


@rejected("given_rows", by="test_strides_where_axes_move", says="strides of x itself")
def strides_stay_where_they_were(reference: str) -> str:
    return with_rows(reference, r2='((5, 2, 3), (15, 5, 1), "view")')


@rejected("given_rows", by="test_strides_where_axes_move", says="bytes")
def strides_in_bytes(reference: str) -> str:
    return with_rows(reference, r1='((5, 3, 2), (4, 20, 60), "view")')


@rejected("given_rows", by="test_shapes_where_axes_move", says="another order")
def permutes_the_other_way(reference: str) -> str:
    return with_rows(reference, r2='((3, 5, 2), (5, 1, 15), "view")')


@rejected("given_rows", by="test_shapes_where_axes_move", says="another order")
def takes_mt_for_a_full_reversal(reference: str) -> str:
    return with_rows(reference, r3='((5, 3, 2), (1, 5, 15), "view")')


@rejected("given_rows", by="test_memory_where_axes_move", says="same storage")
def permute_copies(reference: str) -> str:
    return with_rows(reference, r2='((5, 2, 3), (1, 15, 5), "copy")')


@rejected("given_rows", by="test_shapes_where_axes_come_and_go", says="2 axes")
def squeezes_all_axes(reference: str) -> str:
    return with_rows(reference, r6='((3, 1, 5), (10, 5, 1), "view")')


@rejected("given_rows", by="test_shapes_where_axes_come_and_go", says="3 axes")
def squeezes_an_axis_of_three(reference: str) -> str:
    return with_rows(reference, r7='((3, 5), (5, 1), "view")')


@rejected("given_rows", by="test_strides_where_axes_come_and_go", says="row 8")
def expand_lays_out(reference: str) -> str:
    return with_rows(reference, r8='((2, 3, 5), (15, 5, 1), "view")')


@rejected("given_rows", by="test_memory_where_axes_come_and_go", says="stride 0")
def expand_copies(reference: str) -> str:
    return with_rows(reference, r8='((2, 3, 5), (0, 1, 0), "copy")')


@rejected("given_rows", by="test_shapes_of_parts", says="number of windows")
def unfold_puts_windows_in_the_middle(reference: str) -> str:
    return with_rows(reference, r12='((2, 5, 3), (7, 1, 1), "view")')


@rejected("given_rows", by="test_shapes_of_parts")
def half_of_seven_is_three(reference: str) -> str:
    return with_rows(reference, r10='((3, 3), (7, 2), "view")')


@rejected("given_rows", by="test_strides_of_parts", says="row 10")
def a_step_leaves_the_stride(reference: str) -> str:
    return with_rows(reference, r10='((3, 4), (7, 1), "view")')


@rejected("given_rows", by="test_strides_of_parts", says="row 9")
def a_part_is_contiguous(reference: str) -> str:
    return with_rows(reference, r9='((3, 5), (5, 1), "view")')


@rejected("given_rows", by="test_memory_of_parts", says="list")
def a_list_gives_a_view(reference: str) -> str:
    return with_rows(reference, r11='((2, 7), (7, 1), "view")')


@rejected("given_rows", by="test_strides_of_parts", says="row 12")
def windows_step_by_one(reference: str) -> str:
    return with_rows(reference, r12='((2, 3, 3), (7, 1, 1), "view")')


@rejected("given_rows", by="test_memory_of_parts", says="overlap")
def unfold_copies(reference: str) -> str:
    return with_rows(reference, r12='((2, 3, 3), (7, 2, 1), "copy")')


@rejected("given_rows", by="test_shapes_of_reshaped", says="2 axes")
def flattens_everything(reference: str) -> str:
    return with_rows(reference, r16='((30,), (1,), "view")')


@rejected("given_rows", by="test_strides_of_reshaped", says="row 16")
def flatten_forgets_the_gap(reference: str) -> str:
    return with_rows(reference, r16='((2, 15), (15, 1), "view")')


@rejected("given_rows", by="test_memory_of_reshaped", says="no stride")
def reshape_after_transpose_is_a_view(reference: str) -> str:
    return with_rows(reference, r14='((6,), (1,), "view")')


@rejected("given_rows", by="test_memory_of_reshaped", says="gap")
def flatten_always_copies(reference: str) -> str:
    return with_rows(reference, r16='((2, 15), (30, 1), "copy")')


@rejected("given_rows", by="test_shapes_of_copies", says="row 19")
def repeat_appends_axes(reference: str) -> str:
    return with_rows(reference, r19='((2, 3, 3, 5), (45, 15, 5, 1), "copy")')


@rejected("given_rows", by="test_strides_of_copies", says="keeps the order")
def clone_makes_contiguous(reference: str) -> str:
    return with_rows(reference, r20='((3, 2), (2, 1), "copy")')


@rejected("given_rows", by="test_strides_of_copies", says="strides of x itself")
def contiguous_keeps_strides(reference: str) -> str:
    return with_rows(reference, r18='((3, 2), (1, 3), "copy")')


@rejected("given_rows", by="test_memory_of_copies", says="x itself")
def contiguous_always_copies(reference: str) -> str:
    return with_rows(reference, r17='((2, 3), (3, 1), "copy")')


@rejected("given_rows", by="test_memory_of_copies", says="two words")
def another_word(reference: str) -> str:
    return with_rows(reference, r20='((3, 2), (1, 3), "yes")')


# --- own_rows


@accepted("own_rows")
def as_functions_of_torch():
    f = ((3, 2), (1, 3))
    return [
        ("torch.permute(x, (1, 0))", *f, (2, 3), (3, 1), "view"),
        ("torch.transpose(x, 0, 1)", *f, (2, 3), (3, 1), "view", 0, "the same, for two axes"),
        ("torch.unsqueeze(x, dim=-1)", *f, (3, 2, 1), (1, 3, 9), "view"),
        ("torch.squeeze(x, dim=1)", *f, (3, 2), (1, 3), "view"),
        ("x.expand(-1, 2)", (3, 1), (2, 1), (3, 2), (2, 0), "view"),
        ("x.view(3, 1, 2)", *f, (3, 1, 2), (1, 1, 3), "view"),
        ("x[..., 0]", *f, (3,), (1,), "view"),
        ("x[x > 3]", *f, (2,), (1,), "copy"),
        ("x.unfold(1, 2, 1)", *f, (3, 1, 2), (1, 3, 3), "view"),
        ("x.mT.reshape(6)", *f, (6,), (1,), "view"),
        ("x.T", *f, (2, 3), (3, 1), "view"),
        ("torch.reshape(x, (-1,))", *f, (6,), (1,), "copy"),
        ("torch.reshape(x, (-1,))", (3, 2), (2, 1), (6,), (1,), "view"),
        ("torch.flatten(x)", *f, (6,), (1,), "copy"),
        ("torch.flatten(x)", (3, 2), (2, 1), (6,), (1,), "view"),
        ("x.contiguous()", *f, (3, 2), (2, 1), "copy"),
        ("x.contiguous()", (3, 2), (2, 1), (3, 2), (2, 1), "view"),
        ("x.repeat(1, 2)", *f, (3, 4), (4, 1), "copy"),
        ("torch.clone(x)", *f, (3, 2), (1, 3), "copy"),
        ("x.to(torch.int64)", *f, (3, 2), (1, 3), "copy"),
        ("torch.stack((x, x))", (3,), (1,), (2, 3), (3, 1), "copy"),
        ("x.chunk(2)[0]", (5,), (2,), (3,), (2,), "view"),
        ("F.relu(x)", (2, 3), (3, 1), (2, 3), (3, 1), "copy"),
        ("x.sum()", (2, 3), (3, 1), (), (), "copy"),
    ]


@accepted("own_rows")
def rows_in_pieces():
    views = [
        ("x.view(2, 3)", (6,), (2,), (2, 3), (6, 2), "view"),
        ("x.view(torch.int32)", (2, 3), (1, 2), (2, 3), (1, 2), "view"),
        ("x.permute(1, 2, 0)", (2, 3, 5), (15, 5, 1), (3, 5, 2), (5, 1, 15), "view"),
        ("x.permute(1, 2, 0)", (2, 3, 5), (5, 10, 1), (3, 5, 2), (10, 1, 5), "view"),
        ("x.transpose(0, 1)", (2, 3), (3, 1), (3, 2), (1, 3), "view"),
        ("x.unsqueeze(0)", (), (), (1,), (1,), "view"),
        ("x.squeeze()", (1, 3, 1), (2, 2, 1), (3,), (2,), "view"),
        ("x.expand(2, 3)", (3,), (1,), (2, 3), (0, 1), "view"),
        ("x.expand(2, 2, 3)", (2, 3), (1, 2), (2, 2, 3), (0, 1, 2), "view"),
        ("x.unfold(0, 3, 2)", (7,), (3,), (3, 3), (6, 3), "view"),
        ("x[None]", (2, 3), (1, 2), (1, 2, 3), (7, 1, 2), "view"),
        ("x[0]", (2, 3), (0, 1), (3,), (1,), "view"),
        ("x.diagonal()", (3, 3), (1, 3), (3,), (4,), "view"),
    ]
    both = [
        row
        for name in ("x.reshape(6)", "x.flatten()", "x.contiguous().view(6)")
        for row in (
            (name, (2, 3), (3, 1), (6,), (1,), "view"),
            (name, (2, 3), (1, 2), (6,), (1,), "copy"),
        )
    ]
    copies = [
        ("x.contiguous()", (2, 3), (1, 2), (2, 3), (3, 1), "copy"),
        ("x.repeat(2)", (3,), (1,), (6,), (1,), "copy"),
        ("x.clone()", (3,), (2,), (3,), (1,), "copy"),
        ("x.to(torch.float16)", (3,), (1,), (3,), (1,), "copy"),
        ("torch.cat((x, x), 1)", (2, 3), (3, 1), (2, 6), (6, 1), "copy"),
    ]
    return views + both + copies


@rejected(
    "own_rows",
    by=("test_alike", "test_covers", "test_views_of_other_layouts", "test_both"),
    says="is like row 1",
)
def one_operation_at_other_sizes():
    return [("x.mT", (2, n), (n, 1), (n, 2), (1, n), "view") for n in range(2, 25)]


@rejected("own_rows", by="test_alike", says="is like")
def the_same_row_again(reference: str) -> str:
    row = '        ("x.repeat(2, 1)", (3, 5), (5, 1), (6, 5), (5, 1), "copy"),\n'
    other = row.replace("3, 5", "7, 5").replace("6, 5", "14, 5")
    for op in ("x.clone()", "torch.cat([x, x])", "torch.stack([x, x], dim=1)"):
        reference = re.sub(rf"^        \(\"{re.escape(op)}.*\n", other, reference, flags=re.M)
    return reference


@rejected("own_rows", by="test_runs", says="RuntimeError")
def a_row_that_raises(reference: str) -> str:
    return in_own_rows(reference, '"x.view(6)"', '"x.view(7)"')


@rejected("own_rows", by="test_runs", says="raises")
def a_view_that_strides_refuse(reference: str) -> str:
    return in_own_rows(reference, '("x.flatten(0, 1)"', '("x.view(6, 5)"')


@rejected("own_rows", by="test_runs", says="not a tensor")
def a_result_that_is_no_tensor(reference: str) -> str:
    return in_own_rows(reference, '"x.clone()"', '"x.tolist()"')


@rejected("own_rows", by="test_memory", says="storage of its own")
def every_row_a_view(reference: str) -> str:
    return in_own_rows(reference, '"copy"', '"view"')


@rejected("own_rows", by="test_memory", says="lies in the storage of x")
def every_row_a_copy(reference: str) -> str:
    return in_own_rows(reference, '"view"', '"copy"')


@rejected("own_rows", by="test_shapes", says="another order")
def shapes_not_permuted(reference: str) -> str:
    return in_own_rows(reference, "(5, 2, 3), (6, 1, 2)", "(2, 3, 5), (6, 1, 2)")


@rejected("own_rows", by="test_strides", says="contiguous")
def strides_as_if_contiguous(reference: str) -> str:
    return in_own_rows(reference, "(5, 2, 3), (6, 1, 2)", "(5, 2, 3), (6, 3, 1)")


@rejected("own_rows", by="test_strides", says="jumps")
def an_expanded_axis_jumps(reference: str) -> str:
    return in_own_rows(reference, "(5, 3, 2), (0, 1, 3)", "(5, 3, 2), (6, 1, 3)")


@accepted("own_rows")
def lists_for_tuples(reference: str) -> str:
    row = '("x[[0, 0]]", (3, 5), (5, 1), (2, 5), (5, 1), "copy")'
    return in_own_rows(reference, row, '["x[[0, 0]]", [3, 5], [5, 1], [2, 5], [5, 1], "copy"]')


@rejected("own_rows", by="test_rows", says="too large")
def an_x_that_is_too_large(reference: str) -> str:
    return in_own_rows(
        reference, '("x.clone()", (3, 5), (5, 1)', '("x.clone()", (999, 999), (999, 1)'
    )


@rejected("own_rows", by="test_rows", says="x.mT.reshape(6)")
def two_operations_in_one_row(reference: str) -> str:
    return in_own_rows(reference, '"x.clone()"', '"x.clone(), x.clone()"')


@rejected("own_rows", by="test_rows", says="at least 20")
def nineteen_rows(reference: str) -> str:
    return (
        reference.replace('        ("x.view(6)", (2, 3), (3, 1), (6,), (1,), "view"),\n', "")
        .replace('        ("x.repeat(2, 1)", (3, 5), (5, 1), (6, 5), (5, 1), "copy"),\n', "")
        .replace('        ("x.clone()", (3, 5), (5, 1), (3, 5), (5, 1), "copy"),\n', "")
    )


@rejected("own_rows", by="test_rows", says="one call chain")
def arithmetic_is_no_chain(reference: str) -> str:
    return in_own_rows(reference, '"x.clone()"', '"x * 1"')


@rejected("own_rows", by="test_rows", says="list")
def with_a_builtin(reference: str) -> str:
    return in_own_rows(reference, "torch.cat([x, x])", "torch.cat(list(x)).view(3, 5).repeat(2, 1)")


@rejected("own_rows", by="test_rows", says="no part of a call chain")
def with_a_comprehension(reference: str) -> str:
    return in_own_rows(reference, "torch.cat([x, x])", "torch.cat([x for _ in (0, 1)])")


@rejected("own_rows", by="test_rows", says="x does not occur")
def without_x(reference: str) -> str:
    return in_own_rows(reference, '"x.clone()"', '"torch.zeros(3, 5)"')


@rejected("own_rows", by="test_rows", says="axes")
def a_stride_too_few(reference: str) -> str:
    return in_own_rows(reference, '("x.clone()", (3, 5), (5, 1)', '("x.clone()", (3, 5), (5,)')


@rejected("own_rows", by="test_predicted", says="predict")
def executes_to_fill_in():
    given = [("x.view(6)", (2, 3), (3, 1)), ("x.clone()", (2, 3), (3, 1))]
    rows = []
    for op, shape, stride in given:
        x = torch.empty_strided(shape, stride)
        result = eval(op, {"x": x})
        rows.append((op, shape, stride, tuple(result.shape), result.stride(), "view"))
    return rows


@rejected("own_rows", by="test_covers", says="unfold")
def named_in_a_text_only(reference: str) -> str:
    row = '("x.unfold(0, 2, 1)", (3, 2), (1, 3), (2, 2, 2), (1, 3, 1), "view")'
    other = '("x[:]", (3, 2), (1, 3), (3, 2), (1, 3), "view", "x.unfold(0, 2, 1)")'
    return in_own_rows(reference, row, other)


@rejected("own_rows", by="test_covers", says="indexing")
def without_indexing(reference: str) -> str:
    reference = in_own_rows(reference, "x[:, 1]", "x.select(1, 1)")
    return in_own_rows(reference, "x[[0, 0]]", "x[:2].select_scatter(x, 0, 0)").replace(
        '"x[:2].select_scatter(x, 0, 0)"', '"x.narrow(0, 0, 2).clone()"'
    )


@rejected("own_rows", by="test_covers", says="cat or stack")
def without_cat(reference: str) -> str:
    reference = in_own_rows(reference, "torch.cat([x, x])", "x.tile(2, 1)")
    return in_own_rows(
        reference, "torch.stack([x, x], dim=1)", "x.repeat_interleave(2, 0).reshape(3, 2, 5)"
    )


@rejected("own_rows", by="test_views_of_other_layouts", says="not contiguous")
def contiguous_inputs_only(reference: str) -> str:
    for old, new in (
        ("(5, 2, 3), (6, 1, 2)", "(5, 2, 3), (1, 15, 5)"),
        ("(2, 3, 5), (1, 2, 6)", "(2, 3, 5), (15, 5, 1)"),
        (
            '"x.transpose(0, 1)", (3, 2), (1, 3), (2, 3), (3, 1)',
            '"x.transpose(0, 1)", (3, 2), (2, 1), (2, 3), (1, 2)',
        ),
    ):
        reference = in_own_rows(reference, old, new)
    return in_own_rows(
        reference,
        '"x.unsqueeze(0)", (3, 2), (1, 3), (1, 3, 2), (0, 1, 3)',
        '"x.unsqueeze(0)", (3, 2), (2, 1), (1, 3, 2), (0, 2, 1)',
    )


@rejected("own_rows", by="test_both", says="as a copy in another")
def no_chameleons(reference: str) -> str:
    for op in ("x.reshape(6)", "x.flatten()"):
        reference = in_own_rows(
            reference,
            f'("{op}", (2, 3), (3, 1), (6,), (1,), "view")',
            '("x.ravel()", (2, 3), (3, 1), (6,), (1,), "view")',
        )
    reference = in_own_rows(
        reference,
        '("x.contiguous()", (7,), (1,), (7,), (1,), "view")',
        '("x.detach()", (7,), (1,), (7,), (1,), "view")',
    )
    return in_own_rows(
        reference,
        '("x.to(torch.float32)", (2, 3), (3, 1), (2, 3), (3, 1), "view")',
        '("x.to(torch.float16)", (2, 3), (3, 1), (2, 3), (3, 1), "copy")',
    )


# --- predict


@accepted("predict")
def by_addresses(shape, stride, ops):
    """The address of every element, in order; strides are read off them where they are regular."""

    def addresses(sizes, steps):
        found = [0]
        for size, step in zip(sizes, steps, strict=True):
            found = [base + i * step for base in found for i in range(size)]
        return found

    memory = "view"
    for name, args in ops:
        match name:
            case "permute":
                shape, stride = tuple(shape[d] for d in args), tuple(stride[d] for d in args)
            case "transpose":
                order = list(range(len(shape)))
                order[args[0]], order[args[1]] = args[1], args[0]
                shape, stride = tuple(shape[d] for d in order), tuple(stride[d] for d in order)
            case "unsqueeze":
                d = args[0]
                shape, stride = (*shape[:d], 1, *shape[d:]), (*stride[:d], 99, *stride[d:])
            case "squeeze" if shape[args[0]] != 1:
                pass
            case "squeeze" | "select":
                d = args[0]
                shape, stride = shape[:d] + shape[d + 1 :], stride[:d] + stride[d + 1 :]
            case "slice":
                d, a, b, step = args
                shape = (*shape[:d], -(-(b - a) // step), *shape[d + 1 :])
                stride = (*stride[:d], stride[d] * step, *stride[d + 1 :])
            case "expand":
                new = len(args) - len(shape)
                before = (1,) * new + tuple(shape)
                stride = tuple(
                    step if was == now else 0
                    for was, now, step in zip(before, args, (0,) * new + tuple(stride), strict=True)
                )
                shape = tuple(args)
            case _:
                wanted = tuple(args) if name == "reshape" else tuple(shape)
                if name == "flatten":
                    a, b = args
                    wanted = (*shape[:a], prod(shape[a : b + 1]), *shape[b + 1 :])
                fresh = tuple(prod(wanted[i + 1 :]) for i in range(len(wanted)))
                places = addresses(shape, stride)
                steps = tuple(
                    places[jump] if size > 1 else 0
                    for size, jump in zip(wanted, fresh, strict=True)
                )
                regular = addresses(wanted, steps) == places
                if name == "contiguous":
                    regular = places == list(range(len(places)))
                if not regular:
                    memory = "copy"
                shape, stride = wanted, steps if regular else fresh
    return shape, stride, memory


@accepted("predict")
def with_a_class(shape, stride, ops):
    symbol = Symbol(list(shape), list(stride))
    for name, args in ops:
        getattr(symbol, name)(*([args] if name in ("permute", "expand", "reshape") else args))
    return tuple(symbol.shape), tuple(symbol.stride), "copy" if symbol.copied else "view"


class Symbol:
    """A tensor without elements."""

    def __init__(self, shape, stride):
        self.shape, self.stride, self.copied = shape, stride, False

    def permute(self, dims):
        self.shape = [self.shape[d] for d in dims]
        self.stride = [self.stride[d] for d in dims]

    def transpose(self, a, b):
        dims = list(range(len(self.shape)))
        dims[a], dims[b] = dims[b], dims[a]
        self.permute(dims)

    def unsqueeze(self, d):
        self.shape.insert(d, 1)
        self.stride.insert(d, self.shape[d + 1] * self.stride[d] if d < len(self.stride) else 1)

    def squeeze(self, d):
        if self.shape[d] == 1:
            self.select(d, 0)

    def select(self, d, i):
        self.shape.pop(d)
        self.stride.pop(d)

    def slice(self, d, a, b, step):
        self.shape[d] = (b - a + step - 1) // step
        self.stride[d] *= step

    def expand(self, sizes):
        while len(self.shape) < len(sizes):
            self.shape.insert(0, 1)
            self.stride.insert(0, 0)
        for d, size in enumerate(sizes):
            if self.shape[d] == 1 and size > 1:
                self.shape[d], self.stride[d] = size, 0

    def flatten(self, a, b):
        middle = prod(self.shape[a : b + 1])
        self.reshape([*self.shape[:a], middle, *self.shape[b + 1 :]])

    def contiguous(self):
        if not self.is_contiguous():
            self.copy(self.shape)

    def is_contiguous(self):
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size > 1 and stride != step:
                return False
            step *= size
        return True

    def copy(self, sizes):
        self.copied, self.shape = True, list(sizes)
        self.stride = [prod(sizes[d + 1 :]) for d in range(len(sizes))]

    def reshape(self, sizes):
        stride = self.viewed(sizes)
        if stride is None:
            self.copy(sizes)
        else:
            self.shape, self.stride = list(sizes), stride

    def viewed(self, sizes):
        old = [(n, s) for n, s in zip(self.shape, self.stride, strict=True) if n > 1]
        stride = [1] * len(sizes)
        new = [d for d, size in enumerate(sizes) if size > 1]
        i = j = 0
        while i < len(old):
            first, last, have, want = i, j, old[i][0], sizes[new[j]]
            while have != want:
                if have < want:
                    i += 1
                    have *= old[i][0]
                else:
                    j += 1
                    want *= sizes[new[j]]
            for k in range(first, i):
                if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                    return None
            step = old[i][1]
            for k in range(j, last - 1, -1):
                stride[new[k]] = step
                step *= sizes[new[k]]
            i, j = i + 1, j + 1
        return stride


@accepted("predict")
def with_lists_for_tuples(reference: str) -> str:
    return reference.replace(
        "return tuple(sizes), tuple(steps), memory", "return [sizes, steps, memory]"
    )


@rejected("predict", by=("test_reshaped_views", "test_random_programs"), says="without a gap")
def reshape_always_copies(reference: str) -> str:
    return reference.replace(
        "            if kept is None:\n",
        '            if name != "contiguous":\n                kept = None\n'
        "            if kept is None:\n",
    )


@rejected("predict", by="test_reshaped_views", says="without a gap")
def reshape_has_row_major_strides(reference: str) -> str:
    return reference.replace("fresh if kept is None else kept", "fresh")


@rejected("predict", by=("test_reshaped_copies", "test_random_programs"), says="laid out anew")
def reshape_is_always_a_view(reference: str) -> str:
    return reference.replace('                memory = "copy"', "                pass")


@rejected("predict", by="test_reshaped_views", says="without a gap")
def reshape_copies_what_is_not_contiguous(reference: str) -> str:
    return reference.replace('if name == "contiguous" and any(', "if any(").replace(
        "for size, a, b in zip(sizes, steps, fresh, strict=True)",
        "for size, a, b in zip(sizes, steps, row_major(tuple(sizes)), strict=True)",
    )


@rejected("predict", by="test_reshaped_views", says="without a gap")
def contiguous_looks_at_axes_of_size_one(reference: str) -> str:
    return reference.replace("size > 1 and a != b for", "a != b for")


@rejected("predict", by=("test_reshaped_copies", "test_random_programs"), says="laid out anew")
def contiguous_is_a_view(reference: str) -> str:
    return reference.replace('if name == "contiguous" and any(', 'if name == "?" and any(')


@rejected("predict", by="test_reshaped_copies", says="laid out anew")
def merges_axes_with_a_gap(reference: str) -> str:
    return reference.replace("size > 1 and runs[-1][1] == size * step", "size > 1")


@rejected("predict", by=("test_parts", "test_random_programs"), says="jumps over")
def slice_keeps_the_stride(reference: str) -> str:
    return reference.replace("            steps[axis] *= step\n", "")


@rejected("predict", by=("test_parts", "test_random_programs"), says="range(a, b, step)")
def slice_rounds_down(reference: str) -> str:
    return reference.replace("len(range(start, stop, step))", "max((stop - start) // step, 1)")


@rejected("predict", by="test_parts")
def select_keeps_the_axis(reference: str) -> str:
    return reference.replace(
        'elif name == "select":\n            del sizes[args[0]], steps[args[0]]',
        'elif name == "select":\n            sizes[args[0]] = 1',
    )


@rejected("predict", by=("test_stays_a_copy", "test_random_programs"), says="with the start")
def memory_of_the_last_operation(reference: str) -> str:
    return reference.replace(
        "    for name, args in ops:\n", '    for name, args in ops:\n        memory = "view"\n'
    )


@rejected("predict", by="test_stays_a_copy", says="with the start")
def a_reshape_that_fits_is_a_view_again(reference: str) -> str:
    return reference.replace(
        '                memory = "copy"',
        '                memory = "copy"\n            else:\n                memory = "view"',
    )


@rejected("predict", by=("test_expand", "test_random_programs"), says="stride is 0")
def expand_keeps_strides(reference: str) -> str:
    return reference.replace("0 if old == 1 else step for", "step for")


@rejected("predict", by=("test_expand", "test_random_programs"))
def expand_adds_axes_at_the_end(reference: str) -> str:
    return reference.replace("stretched = [0] * new + [", "stretched = [").replace(
        "zip(sizes, steps, strict=True)\n            ]\n",
        "zip(sizes, steps, strict=True)\n            ] + [0] * new\n",
    )


@rejected("predict", by="test_expand", says="stride is 0")
def expand_lays_out_anew(reference: str) -> str:
    return reference.replace(
        "sizes, steps = list(args), stretched", "sizes, steps = list(args), row_major(args)"
    )


@rejected("predict", by=("test_axes_come_and_go", "test_random_programs"), says="axis d alone")
def squeeze_removes_any_axis(reference: str) -> str:
    return reference.replace("if sizes[args[0]] == 1:", "if True:")


@rejected("predict", by="test_axes_come_and_go", says="axis d alone")
def squeeze_removes_all_ones(reference: str) -> str:
    return reference.replace(
        "            if sizes[args[0]] == 1:\n                del sizes[args[0]], steps[args[0]]",
        "            kept_axes = [d for d, size in enumerate(sizes) if size > 1]\n"
        "            sizes, steps = [sizes[d] for d in kept_axes], [steps[d] for d in kept_axes]",
    )


@rejected("predict", by=("test_axes_move", "test_random_programs"), says="dims[i]")
def permute_leaves_strides(reference: str) -> str:
    return reference.replace(
        "sizes, steps = [sizes[d] for d in args], [steps[d] for d in args]",
        "sizes = [sizes[d] for d in args]",
    )


@rejected("predict", by=("test_axes_move", "test_random_programs"), says="dims[i]")
def permutes_backwards(reference: str) -> str:
    return reference.replace(
        "[sizes[d] for d in args], [steps[d] for d in args]",
        "[sizes[args.index(d)] for d in range(len(args))], "
        "[steps[args.index(d)] for d in range(len(args))]",
    )


@rejected("predict", by=("test_axes_move", "test_random_programs"), says="contiguous")
def always_contiguous(reference: str) -> str:
    return reference.replace(
        "return tuple(sizes), tuple(steps), memory",
        "return tuple(sizes), tuple(row_major(sizes)), memory",
    )


@rejected("predict", by=("test_reshaped_views", "test_random_programs"), says="result shape")
def flatten_takes_all_axes(reference: str) -> str:
    return reference.replace(
        "(*sizes[:first], prod(sizes[first : last + 1]), *sizes[last + 1 :])", "(prod(sizes),)"
    )


@rejected("predict", by="test_reshaped_views", says="without a gap")
def expanded_axes_are_never_merged(reference: str) -> str:
    return reference.replace("runs[-1][1] == size * step:", "runs[-1][1] == size * step > 0:")


@rejected("predict", by="test_stays_a_copy")
def a_reshape_after_a_copy_is_not_looked_at(reference: str) -> str:
    return reference.replace(
        "            if kept is None:\n",
        '            if memory == "copy" and name == "reshape":\n'
        "                kept = fresh\n"
        "            if kept is None:\n",
    )


@rejected("predict", by="test_axes_move", says="predict says True")
def says_whether_it_is_a_view(reference: str) -> str:
    return reference.replace("tuple(steps), memory", 'tuple(steps), memory == "view"')


@rejected("predict", by="test_axes_move", says="(shape, stride, memory)")
def forgets_the_memory(reference: str) -> str:
    return reference.replace("tuple(steps), memory", "tuple(steps)")


@rejected("predict", by="test_parts", says="range(a, b, step)")
def select_takes_the_wrong_axis(reference: str) -> str:
    return reference.replace(
        'elif name == "select":\n            del sizes[args[0]], steps[args[0]]',
        'elif name == "select":\n            del sizes[0], steps[0]',
    )


@rejected("predict", by="test_plain_python", says="shape and stride are numbers")
def runs_it_with_torch(shape, stride, ops):
    start = torch.empty_strided(shape, stride)
    x = start
    for name, args in ops:
        if name == "slice":
            x = x[(slice(None),) * args[0] + (slice(*args[1:]),)]
        elif name in ("permute", "expand", "reshape"):
            x = getattr(x, name)(args)
        else:
            x = getattr(x, name)(*args)
    shares = x.untyped_storage().data_ptr() == start.untyped_storage().data_ptr()
    return tuple(x.shape), tuple(x.stride()), "view" if shares else "copy"


# --- repair_five


def repaired(reference: str, name: str, old: str, new: str) -> str:
    """The reference with a text replaced in one function."""
    start = reference.index(f"def {name}(")
    end = reference.index("### END SOLUTION", start)
    return reference[:start] + reference[start:end].replace(old, new) + reference[end:]


@accepted("repair_five")
def other_repairs(reference: str) -> str:
    for name, old, new in (
        ("merge_heads", "x.transpose(1, 2)", "x.permute(0, 2, 1, 3)"),
        ("to_nchw", "scaled.permute(0, 3, 1, 2)", "scaled.movedim(-1, 1)"),
        ("batch_outer", "b.unsqueeze(1)", "b[:, None, :]"),
        ("column_loss", "pred.squeeze(1) - target", "pred - target[:, None]"),
        ("pick_per_row", "index.unsqueeze(1)", "index[:, None]"),
    ):
        reference = repaired(reference, name, old, new)
    return reference


@accepted("repair_five")
def two_statements_each(reference: str) -> str:
    for name, old, new in (
        (
            "merge_heads",
            "    tokens = x.transpose(1, 2)\n    return tokens.reshape(batch, seq, heads * dim)",
            "    return x.transpose(1, 2).flatten(2)",
        ),
        (
            "to_nchw",
            "scaled.permute(0, 3, 1, 2)",
            "scaled.transpose(1, 3)\n    planes = planes.transpose(2, 3)",
        ),
        (
            "batch_outer",
            "    row = b.unsqueeze(1)\n    return column * row",
            '    return torch.einsum("bi,bj->bij", column[..., 0], b)',
        ),
        ("column_loss", "pred.squeeze(1) - target", "pred[:, 0] - target"),
        (
            "pick_per_row",
            "    places = index.unsqueeze(1)\n    picked = scores.gather(1, places)\n",
            "    places = torch.arange(len(index), device=index.device)\n"
            "    picked = scores[places, index]\n",
        ),
    ):
        reference = repaired(reference, name, old, new)
    return reference.replace("from torch import Tensor", "import torch\nfrom torch import Tensor")


@accepted("repair_five")
def squeezes_the_predictions(reference: str) -> str:
    reference = repaired(reference, "column_loss", "pred.squeeze(1)", "pred.squeeze()")
    reference = repaired(reference, "batch_outer", "b.unsqueeze(1)", "b.unsqueeze(-2)")
    return repaired(reference, "pick_per_row", "picked.flatten()", "picked.squeeze(1)")


@accepted("repair_five")
def comments_and_annotations_are_free(reference: str) -> str:
    return reference.replace(
        "def merge_heads(x: Tensor) -> Tensor:", "def merge_heads(x):"
    ).replace(
        "    tokens = x.transpose(1, 2)", "    # the heads move\n    tokens = (x.transpose(1, 2))"
    )


@rejected("repair_five", by=("test_merge_heads", "test_few_statements"), says="never moves an axis")
def merge_heads_as_it_was(reference: str) -> str:
    return repaired(
        reference, "merge_heads", "x.transpose(1, 2)", "x.reshape(batch, seq, heads, dim)"
    )


@rejected("repair_five", by="test_merge_heads", says="alternate")
def heads_alternate(reference: str) -> str:
    return repaired(reference, "merge_heads", "x.transpose(1, 2)", "x.permute(0, 2, 3, 1)")


@rejected("repair_five", by=("test_to_nchw", "test_few_statements"), says="height")
def to_nchw_as_it_was(reference: str) -> str:
    return repaired(reference, "to_nchw", "scaled.permute(0, 3, 1, 2)", "scaled.transpose(1, 3)")


@rejected("repair_five", by="test_to_nchw", says="mixed up")
def reshapes_the_images(reference: str) -> str:
    return repaired(
        reference,
        "to_nchw",
        "scaled.permute(0, 3, 1, 2)",
        "scaled.reshape(len(images), images.shape[3], *images.shape[1:3])",
    )


@rejected("repair_five", by=("test_batch_outer", "test_few_statements"))
def batch_outer_as_it_was(reference: str) -> str:
    return repaired(reference, "batch_outer", "b.unsqueeze(1)", "b.unsqueeze(-1)")


@rejected("repair_five", by="test_batch_outer")
def outer_the_other_way(reference: str) -> str:
    return repaired(
        reference, "batch_outer", "return column * row", "return (column * row).transpose(1, 2)"
    )


@rejected("repair_five", by="test_batch_outer")
def outer_over_the_batch(reference: str) -> str:
    return repaired(reference, "batch_outer", "b.unsqueeze(1)", "b.unsqueeze(0)")


@rejected("repair_five", by=("test_column_loss", "test_few_statements"), says="all pairs")
def column_loss_as_it_was(reference: str) -> str:
    return repaired(reference, "column_loss", "pred.squeeze(1) - target", "pred - target")


@rejected("repair_five", by="test_column_loss", says="all pairs")
def unsqueezes_in_front(reference: str) -> str:
    return repaired(
        reference, "column_loss", "pred.squeeze(1) - target", "pred - target.unsqueeze(0)"
    )


@rejected("repair_five", by="test_column_loss", says="summed")
def sums_the_squares(reference: str) -> str:
    return repaired(reference, "column_loss", "squared.mean()", "squared.sum()")


@rejected("repair_five", by=("test_pick_per_row", "test_few_statements"), says="row 0")
def pick_per_row_as_it_was(reference: str) -> str:
    return repaired(reference, "pick_per_row", "index.unsqueeze(1)", "index.unsqueeze(0)")


@rejected("repair_five", by="test_pick_per_row")
def a_table_of_all_rows(reference: str) -> str:
    return repaired(reference, "pick_per_row", "scores.gather(1, places)", "scores[:, index]")


@rejected("repair_five", by="test_batch_of_one", says="batch")
def squeeze_eats_the_batch(reference: str) -> str:
    return repaired(reference, "pick_per_row", "picked.flatten()", "picked.squeeze()")


@rejected("repair_five", by="test_batch_of_one")
def squeezes_the_first_axis(reference: str) -> str:
    return repaired(reference, "merge_heads", "heads * dim)", "heads * dim).squeeze(0)")


@rejected("repair_five", by="test_other_axes_of_one")
def squeezes_all_heads(reference: str) -> str:
    return repaired(reference, "to_nchw", "planes.contiguous()", "planes.contiguous().squeeze(1)")


@rejected("repair_five", by="test_leaves_its_arguments_alone", says="index")
def changes_the_index(reference: str) -> str:
    return repaired(reference, "pick_per_row", "index.unsqueeze(1)", "index.unsqueeze_(1)")


@rejected("repair_five", by="test_few_statements", says="4 statements")
def added_statements(reference: str) -> str:
    return repaired(
        reference,
        "column_loss",
        "    error = pred.squeeze(1) - target\n",
        "    assert pred.dim() == 2\n    assert target.dim() == 1\n"
        "    pred = pred.squeeze(1)\n    error = pred - target.clone()\n",
    )


@rejected("repair_five", by="test_few_statements", says="3 statements")
def rewritten(reference: str) -> str:
    return repaired(
        reference,
        "to_nchw",
        "    scaled = images.float() / 255\n    planes = scaled.permute(0, 3, 1, 2)\n"
        "    return planes.contiguous()",
        "    moved = images.permute(0, 3, 1, 2)\n    return moved.float().div(255).contiguous()",
    )


@rejected("repair_five", by=("test_no_loops", "test_few_statements"), says="loop")
def with_a_loop(reference: str) -> str:
    return repaired(
        reference,
        "pick_per_row",
        "    return picked.flatten()",
        "    out = picked.flatten().clone()\n"
        "    for row in range(len(index)):\n"
        "        out[row] = scores[row, int(index[row])]\n"
        "    return out",
    )


@rejected("repair_five", by="test_no_loops", says="comprehension")
def with_a_comprehension_for_outer(reference: str) -> str:
    return repaired(
        reference, "batch_outer", "b.unsqueeze(1)", "b.new_tensor([[r.tolist()] for r in b])"
    )
