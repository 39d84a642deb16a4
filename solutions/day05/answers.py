"""Answers to day 5 that its suite must accept or reject."""

import functools
import itertools
import math

import torch
from einsum import *
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- ten_einsums


@accepted("ten_einsums")
def other_letters(reference: str) -> str:
    return (
        reference.replace('"bhqd,bhkd->bhqk"', '"bnid,bnjd->bnij"')
        .replace('"bhqk,bhkd->bhqd"', '"BHsT, BHTc -> BHsc"')
        .replace('"bij,bjk->bik"', '"xab, xbc -> xac"')
    )


@accepted("ten_einsums")
def without_an_arrow(reference: str) -> str:
    return (
        reference.replace('"ii->"', '"ii"')
        .replace('"ij->ji"', '"ji"')
        .replace('"i,j->ij"', '"i,j"')
        .replace('"bijk,kl->bijl"', '"abcd,de"')
    )


@accepted("ten_einsums")
def with_dots(reference: str) -> str:
    return (
        reference.replace('"bij,bjk->bik"', '"...ij,...jk->...ik"')
        .replace('"bii->bi"', '"...ii->...i"')
        .replace('"bhqd,bhkd->bhqk"', '"...qd,...kd->...qk"')
        .replace('"bijk,kl->bijl"', '"...k,kl->...l"')
        .replace('"ij->i"', '"...j->..."')
    )


@accepted("ten_einsums")
def filled_in_below(reference: str) -> str:
    start, end = reference.index('    "trace"'), reference.index("    ### END SOLUTION\n}")
    return (
        f'{reference[:start]}    **dict(trace="ii->", transpose="ij->ji", row_sums="ij->i"),\n'
        '    **{"batch_matmul": "bij,bjk->bik", "outer": "i,j->ij"},\n'
        '    "bilinear": "bi,ij,bj->b",\n    "batch_diagonal": "bii->bi",\n'
        f"{reference[end:]}\n\n"
        'EXPRESSIONS["attention_scores"] = "bhqd,bhkd->bhqk"\n'
        'EXPRESSIONS |= {"attention_output": "bhqk,bhkd->bhqd", "contraction": "bijk,kl->bijl"}\n'
    )


@rejected("ten_einsums", by="test_transpose", says="nothing is summed")
def transpose_by_the_alphabet(reference: str) -> str:
    return reference.replace('"ij->ji"', '"ij"')


@rejected("ten_einsums", by="test_transpose", says="alphabetical")
def transpose_with_the_wrong_alphabet(reference: str) -> str:
    return reference.replace('"ij->ji"', '"ab"')


@rejected("ten_einsums", by="test_bilinear", says="refuses")
def bilinear_of_two_operands(reference: str) -> str:
    return reference.replace('"bi,ij,bj->b"', '"bij,bij->b"')


@rejected("ten_einsums", by="test_bilinear", says="b, i and j are missing on the right")
def bilinear_summed_over_the_batch(reference: str) -> str:
    return reference.replace('"bi,ij,bj->b"', '"bi,ij,bj->"')


@rejected("ten_einsums", by="test_bilinear", says="a, c and j are missing")
def bilinear_of_all_pairs(reference: str) -> str:
    return reference.replace('"bi,ij,bj->b"', '"ai,ij,cj->i"')


@rejected("ten_einsums", by="test_bilinear", says="every letter")
def bilinear_without_the_sum(reference: str) -> str:
    return reference.replace('"bi,ij,bj->b"', '"bi,ij,bj->bij"')


@rejected("ten_einsums", by="test_attention_scores", says="k is missing on the right")
def scores_without_the_keys(reference: str) -> str:
    return reference.replace('"bhqd,bhkd->bhqk"', '"bhqd,bhkd->bhqd"')


@rejected("ten_einsums", by="test_attention_scores", says="(2, 3, 7, 5)")
def scores_with_keys_as_rows(reference: str) -> str:
    return reference.replace('"bhqd,bhkd->bhqk"', '"bhqd,bhkd->bhkq"')


@rejected("ten_einsums", by="test_attention_scores", says="refuses")
def scores_with_heads_behind(reference: str) -> str:
    return reference.replace('"bhqd,bhkd->bhqk"', '"bqhd,bkhd->bhqk"')


@rejected("ten_einsums", by="test_attention_scores", says="d and h are missing")
def scores_summed_over_the_heads(reference: str) -> str:
    return reference.replace('"bhqd,bhkd->bhqk"', '"bhqd,bhkd->bqk"')


@rejected("ten_einsums", by="test_attention_scores", says="refuses")
def scores_as_a_matrix_product(reference: str) -> str:
    return reference.replace('"bhqd,bhkd->bhqk"', '"...ij,...jk->...ik"')


@rejected("ten_einsums", by="test_trace", says="i and j are missing")
def trace_sums_everything(reference: str) -> str:
    return reference.replace('"ii->"', '"ij->"')


@rejected("ten_einsums", by="test_trace", says="diagonal")
def trace_not_summed(reference: str) -> str:
    return reference.replace('"ii->"', '"ii->i"')


@rejected("ten_einsums", by="test_batch_matmul", says="b and j are missing")
def matmul_summed_over_the_batch(reference: str) -> str:
    return reference.replace('"bij,bjk->bik"', '"bij,bjk->ik"')


@rejected("ten_einsums", by="test_batch_matmul", says="refuses")
def matmul_by_rows(reference: str) -> str:
    return reference.replace('"bij,bjk->bik"', '"bij,bkj->bik"')


@rejected("ten_einsums", by="test_batch_matmul", says="alphabetical")
def matmul_without_an_arrow(reference: str) -> str:
    return reference.replace('"bij,bjk->bik"', '"bij,bjk"')


@rejected("ten_einsums", by="test_row_sums", says="(3,)")
def column_sums(reference: str) -> str:
    return reference.replace('"ij->i"', '"ij->j"')


@rejected("ten_einsums", by="test_row_sums", says="refuses")
def row_sums_of_a_square(reference: str) -> str:
    return reference.replace('"ij->i"', '"ii->i"')


@rejected("ten_einsums", by="test_outer", says="refuses")
def inner_instead_of_outer(reference: str) -> str:
    return reference.replace('"i,j->ij"', '"i,i->i"')


@rejected("ten_einsums", by="test_outer", says="(3, 2)")
def outer_transposed(reference: str) -> str:
    return reference.replace('"i,j->ij"', '"i,j->ji"')


@rejected("ten_einsums", by="test_batch_diagonal", says="i is missing")
def batch_of_traces(reference: str) -> str:
    return reference.replace('"bii->bi"', '"bii->b"')


@rejected("ten_einsums", by="test_batch_diagonal", says="j is missing")
def row_sums_instead_of_the_diagonal(reference: str) -> str:
    return reference.replace('"bii->bi"', '"bij->bi"')


@rejected("ten_einsums", by="test_attention_output", says="k and l are missing")
def values_summed_by_themselves(reference: str) -> str:
    return reference.replace('"bhqk,bhkd->bhqd"', '"bhqk,bhld->bhqd"')


@rejected("ten_einsums", by="test_attention_output", says="refuses")
def weights_applied_to_the_queries(reference: str) -> str:
    return reference.replace('"bhqk,bhkd->bhqd"', '"bhqk,bhqd->bhkd"')


@rejected("ten_einsums", by="test_contraction", says="j and k are missing")
def contraction_loses_a_letter(reference: str) -> str:
    return reference.replace('"bijk,kl->bijl"', '"bijk,kl->bil"')


@rejected("ten_einsums", by="test_contraction", says="alphabetical")
def contraction_without_an_arrow(reference: str) -> str:
    return reference.replace('"bijk,kl->bijl"', '"bijk,ka"')


@rejected("ten_einsums", by=("test_ten_strings", "test_outer"), says='no key "outer"')
def a_key_is_missing(reference: str) -> str:
    return reference.replace('    "outer": "i,j->ij",\n', "")


@rejected("ten_einsums", by=("test_ten_strings", "test_trace"), says="only letters")
def with_digits(reference: str) -> str:
    return reference.replace('"ii->"', '"1,1->"')


@rejected("ten_einsums", by=("test_ten_strings", "test_row_sums"), says="function")
def functions_instead_of_strings(reference: str) -> str:
    return reference.replace('"ij->i"', "lambda A: A.sum(1)")


# --- einsum_lite


@accepted("einsum_lite")
def with_expand_and_indexing(spec, *ops):
    inputs, output = spec.split("->")
    sizes = {}
    for term, op in zip(inputs.split(","), ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if letter in sizes and sizes[letter] != size:
                raise ValueError(f"{letter!r}: {size} != {sizes[letter]}")
            sizes[letter] = size
    letters = list(output) + sorted(set(sizes) - set(output))
    places = {
        letter: torch.arange(sizes[letter], device=ops[0].device).view(
            [-1 if other == letter else 1 for other in letters]
        )
        for letter in letters
    }
    product = None
    for term, op in zip(inputs.split(","), ops, strict=True):
        part = op[tuple(places[letter] for letter in term)]
        product = part if product is None else product * part
    product = product.expand([sizes[letter] for letter in letters])
    while product.ndim > len(output):
        product = product.sum(-1)
    return product


@accepted("einsum_lite")
def with_unsqueeze_and_movedim(spec, *ops):
    left, right = spec.split("->")
    every = sorted(set(left) - {","})
    sizes = {}

    def aligned(term, op):
        for axis, letter in enumerate(term):
            if sizes.setdefault(letter, op.size(axis)) != op.size(axis):
                raise ValueError("sizes of", letter)
        while len(set(term)) < len(term):
            letter = next(x for x in term if term.count(x) > 1)
            i = term.index(letter)
            j = term.index(letter, i + 1)
            op = torch.diagonal(op, 0, i, j).movedim(-1, 0)
            term = letter + term[:i] + term[i + 1 : j] + term[j + 1 :]
        op = op.permute(sorted(range(len(term)), key=lambda axis: term[axis]))
        for axis, letter in enumerate(every):
            if letter not in term:
                op = op.unsqueeze(axis)
        return op

    # All sizes are looked at before anything is multiplied.
    parts = [aligned(*pair) for pair in zip(left.split(","), ops, strict=True)]
    product = functools.reduce(torch.mul, parts)
    for axis in reversed(range(len(every))):
        if every[axis] not in right:
            product = product.sum(axis)
    kept = [letter for letter in every if letter in right]
    return product.permute([kept.index(letter) for letter in right])


@accepted("einsum_lite")
def pair_by_pair(spec, *ops):
    left, right = spec.split("->")
    terms, sizes = left.split(","), {}
    for term, op in zip(terms, ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"size of {letter}: {sizes[letter]} vs {size}")

    def simple(term, op):
        for letter in dict.fromkeys(term):
            while term.count(letter) > 1:
                i = term.index(letter)
                j = term.index(letter, i + 1)
                op = op.diagonal(dim1=i, dim2=j)
                term = term.replace(letter, "", 2) + letter
        return term, op

    def lined_up(term, op, letters):
        op = op.permute([term.index(x) for x in letters if x in term])
        return op[tuple(slice(None) if x in term else None for x in letters)]

    term, result = simple(terms[0], ops[0])
    for i in range(1, len(ops)):
        other, op = simple(terms[i], ops[i])
        both = "".join(dict.fromkeys(term + other))
        needed = set(right).union(*terms[i + 1 :])
        result = lined_up(term, result, both) * lined_up(other, op, both)
        dead = [axis for axis, letter in enumerate(both) if letter not in needed]
        if dead:
            result = result.sum(dead)
        term = "".join(letter for letter in both if letter in needed)
    dead = [axis for axis, letter in enumerate(term) if letter not in right]
    result = result.sum(dead) if dead else result
    term = "".join(letter for letter in term if letter in right)
    return result.permute(*[term.index(letter) for letter in right]) if right else result


@accepted("einsum_lite")
def diagonal_by_a_mask(spec, *ops):
    """Every axis is a letter of its own; equal letters are held together by identity matrices."""
    left, right = spec.split("->")
    terms, sizes, names, factors = left.split(","), {}, [], []
    for term, op in zip(terms, ops, strict=True):
        seen = ""
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"[{letter}] {sizes[letter]} and {size}")
            name = letter
            while name in seen:
                name = chr(ord(name) + 40)
            seen += name
            sizes[name] = size
            if name != letter:
                eye = torch.eye(size, dtype=op.dtype, device=op.device)
                names.append(letter + name)
                factors.append(eye)
        names.append(seen)
        factors.append(op)
    letters = right + "".join(sorted(set("".join(names)) - set(right)))
    product = ops[0].new_ones(())
    for name, factor in zip(names, factors, strict=True):
        order = [name.index(x) for x in letters if x in name]
        product = product * factor.permute(order).reshape(
            [sizes[x] if x in name else 1 for x in letters]
        )
    return product.flatten(len(right)).sum(-1) if len(letters) > len(right) else product


@rejected("einsum_lite", by=("test_one_operand", "test_two_operands"), says="order of the operands")
def output_in_the_operands_order(spec, *ops):
    inputs, output = spec.split("->")
    return lite(f"{inputs}->{''.join(sorted(output, key=inputs.index))}", *ops)


@rejected("einsum_lite", by=("test_one_operand", "test_two_operands"), says="alphabetical")
def output_in_alphabetical_order(spec, *ops):
    inputs, output = spec.split("->")
    return lite(f"{inputs}->{''.join(sorted(output))}", *ops)


@rejected("einsum_lite", by="test_diagonal", says="diagonal")
def repeats_are_summed_over(spec, *ops):
    inputs, output = spec.split("->")
    fresh, terms = iter("uvwxyz"), []
    for term in inputs.split(","):
        seen = ""
        for letter in term:
            seen += next(fresh) if letter in seen else letter
        terms.append(seen)
    return lite(f"{','.join(terms)}->{output}", *ops)


@rejected("einsum_lite", by="test_diagonal")
def no_repeats(spec, *ops):
    inputs, output = spec.split("->")
    terms, sizes = inputs.split(","), {}
    for term, op in zip(terms, ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(letter)
    letters = output + "".join(x for x in sizes if x not in output)
    parts = [
        op.permute([term.index(x) for x in letters if x in term]).reshape(
            [sizes[x] if x in term else 1 for x in letters]
        )
        for term, op in zip(terms, ops, strict=True)
    ]
    summed = tuple(range(len(output), len(letters)))
    product = functools.reduce(torch.mul, parts)
    return product.sum(summed) if summed else product


@rejected("einsum_lite", by="test_diagonal")
def only_one_repeat(reference: str) -> str:
    return reference.replace("while term.count(letter) > 1:", "if term.count(letter) > 1:")


@rejected("einsum_lite", by="test_three_operands", says="third operand")
def sums_too_early(spec, *ops):
    inputs, output = spec.split("->")
    terms = inputs.split(",")
    if len(terms) < 3:
        return lite(spec, *ops)
    sizes = {}
    for term, op in zip(terms, ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(letter)
    kept = "".join(x for x in dict.fromkeys(terms[0] + terms[1]) if x in output)
    early = lite(f"{terms[0]},{terms[1]}->{kept}", *ops[:2])
    return lite(f"{kept},{terms[2]}->{output}", early, ops[2])


@rejected("einsum_lite", by="test_one_operand")
def fails_for_one_operand(spec, *ops):
    first, second = spec.split("->")[0].split(",")[:2]
    return lite(spec, *ops)


@rejected("einsum_lite", by="test_three_operands")
def two_operands_at_the_most(spec, *ops):
    first, *rest = ops
    inputs, output = spec.split("->")
    terms = inputs.split(",")
    return lite(f"{','.join(terms[:2])}->{output}", first, *rest[:1])


@rejected("einsum_lite", by=("test_one_operand", "test_two_operands"), says="everything was summed")
def sums_over_no_axes(reference: str) -> str:
    return reference.replace("product.sum(summed) if summed else product", "product.sum(summed)")


@rejected("einsum_lite", by="test_no_output")
def keeps_an_axis_for_a_number(reference: str) -> str:
    return reference.replace(
        "return product.sum(summed) if summed",
        "if not output:\n        return product.sum().reshape(1)\n"
        "    return product.sum(summed) if summed",
    )


@rejected("einsum_lite", by="test_no_output")
def gives_a_number_of_python(spec, *ops):
    result = lite(spec, *ops)
    return result if result.ndim else result.item()


@rejected("einsum_lite", by="test_axes_of_size_one")
def squeezes(spec, *ops):
    return lite(spec, *ops).squeeze()


@rejected("einsum_lite", by="test_axes_of_size_one")
def size_one_means_missing(reference: str) -> str:
    return reference.replace(
        "summed = tuple(range(len(output), len(letters)))",
        "product = product[tuple(0 if size == 1 else slice(None) for size in product.shape)]\n"
        "    extra = sum(1 for x in letters[len(output):] if sizes[x] > 1)\n"
        "    summed = tuple(range(product.ndim - extra, product.ndim))",
    )


@rejected("einsum_lite", by="test_sizes_that_disagree", says="RuntimeError")
def leaves_the_refusal_to_torch(reference: str) -> str:
    return reference.replace(
        "if sizes.setdefault(letter, size) != size:", "if sizes.setdefault(letter, size) == -1:"
    )


@accepted("einsum_lite")
def stacked_and_multiplied(spec, *ops):
    left, right = spec.split("->")
    sizes, parts = {}, []
    for term, op in zip(left.split(","), ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if letter in sizes and size != sizes[letter]:
                raise ValueError(f"size of dim_{letter} is {size}, was {sizes[letter]}")
            sizes[letter] = size
    letters = right + "".join(set(sizes) - set(right))
    for term, op in zip(left.split(","), ops, strict=True):
        strides = {}
        for letter, stride in zip(term, op.stride(), strict=True):
            strides[letter] = strides.get(letter, 0) + stride
        shape = [sizes[x] for x in letters]
        parts.append(op.as_strided(shape, [strides.get(x, 0) for x in letters]))
    product = torch.stack(parts).prod(0)
    for _ in letters[len(right) :]:
        product = product.sum(dim=-1)
    return product


@rejected("einsum_lite", by="test_two_operands")
def kept_by_spec(spec, *ops):
    check_sizes(spec, *ops)
    if spec not in KEPT:
        KEPT[spec] = lite(spec, *ops)
    return KEPT[spec]


KEPT = {}


@rejected("einsum_lite", by="test_sizes_that_disagree")
def compares_neighbours_only(spec, *ops):
    terms = spec.split("->")[0].split(",")
    for first, second, a, b in zip(terms, terms[1:], ops, ops[1:], strict=False):
        for letter in set(first) & set(second):
            if a.shape[first.index(letter)] != b.shape[second.index(letter)]:
                raise ValueError(f"letter {letter}")
    with torch.backends.opt_einsum.flags(enabled=False):  # where it is installed, it compares all
        return torch.einsum(spec, *ops)


@rejected(
    "einsum_lite", by=("test_sizes_that_disagree", "test_diagonal_of_an_oblong"), says="the letter"
)
def does_not_name_the_letter(reference: str) -> str:
    return reference.replace('f"letter {letter} has the sizes', "f\"the sizes don't fit:")


@rejected("einsum_lite", by="test_sizes_that_disagree", says="the letter")
def names_the_spec_alone(reference: str) -> str:
    return reference.replace('f"letter {letter} has the sizes', "f\"{spec} doesn't fit:")


@rejected("einsum_lite", by="test_sizes_that_disagree", says="the letter")
def names_the_first_letter(reference: str) -> str:
    return reference.replace(
        'f"letter {letter} has the sizes', 'f"letter {term[0] if term[1:] else 9} has the sizes'
    )


@rejected("einsum_lite", by="test_diagonal_of_an_oblong", says="nothing was raised")
def compares_operands_with_each_other_only(spec, *ops):
    inputs, output = spec.split("->")
    sizes = {}
    for term, op in zip(inputs.split(","), ops, strict=True):
        for letter in set(term):  # `diagonal` takes the shorter of two sizes
            size = min(op.shape[i] for i in range(len(term)) if term[i] == letter)
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"letter {letter}: {size} and {sizes[letter]}")
    cut = [
        op[tuple(slice(sizes[letter]) for letter in term)]
        for term, op in zip(inputs.split(","), ops, strict=True)
    ]
    return lite(spec, *cut)


@rejected("einsum_lite", by="test_sizes_that_disagree", says="AssertionError")
def asserts_the_sizes(reference: str) -> str:
    return reference.replace("raise ValueError(f", "raise AssertionError(f")


@rejected("einsum_lite", by="test_gradient")
def detaches_the_later_operands(spec, *ops):
    return lite(spec, ops[0], *(op.detach() for op in ops[1:]))


@rejected("einsum_lite", by="test_gradient")
def in_numpy_after_all(spec, *ops):
    return lite(spec, *(torch.from_numpy(op.detach().numpy()) for op in ops))


@rejected("einsum_lite", by="test_forbidden", says="einsum")
def with_einsum(spec, *ops):
    check_sizes(spec, *ops)
    return torch.einsum(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="tensordot")
def with_tensordot(spec, *ops):
    check_sizes(spec, *ops)
    if len(ops) == 2 and spec == "ab,bc->ac":
        return torch.tensordot(*ops, dims=1)
    return lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="matmul")
def with_matmul(spec, *ops):
    check_sizes(spec, *ops)
    if len(ops) == 2 and spec == "ab,bc->ac":
        return ops[0] @ ops[1]
    return lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="mm")
def with_mm(spec, *ops):
    check_sizes(spec, *ops)
    return ops[0].mm(ops[1]) if spec == "ab,bc->ac" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="bmm")
def with_bmm(spec, *ops):
    check_sizes(spec, *ops)
    return torch.bmm(*ops) if spec == "abc,acd->abd" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="mv")
def with_mv(spec, *ops):
    check_sizes(spec, *ops)
    return ops[0].mv(ops[1]) if spec == "ab,b->a" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="dot")
def with_dot(spec, *ops):
    check_sizes(spec, *ops)
    return torch.dot(*ops) if spec == "a,a->" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="inner")
def with_inner(spec, *ops):
    check_sizes(spec, *ops)
    return torch.inner(*ops) if spec == "a,a->" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="outer")
def with_outer(spec, *ops):
    check_sizes(spec, *ops)
    return ops[0].ger(ops[1]) if spec == "a,b->ab" else lite(spec, *ops)


@rejected("einsum_lite", by="test_forbidden", says="linear")
def with_linear(spec, *ops):
    check_sizes(spec, *ops)
    return F.linear(ops[0], ops[1].mT) if spec == "ab,bc->ac" else lite(spec, *ops)


@rejected("einsum_lite", by="test_leaves_its_operands_alone")
def multiplies_in_place(spec, *ops):
    check_sizes(spec, *ops)
    if len(set(spec.replace("->", ",").split(","))) == 1:
        return ops[0].mul_(ops[1])
    return lite(spec, *ops)


@rejected("einsum_lite", by="test_device")
def builds_on_the_cpu(spec, *ops):
    inputs, output = spec.split("->")
    terms = inputs.split(",")
    sizes = check_sizes(spec, *ops)
    return (
        lite(f"{inputs},{output}->{output}", *ops, torch.ones([sizes[x] for x in output]))
        if (terms)
        else None
    )


def check_sizes(spec, *ops):
    sizes = {}
    for term, op in zip(spec.split("->")[0].split(","), ops, strict=True):
        for letter, size in zip(term, op.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"letter {letter} has the sizes {sizes[letter]} and {size}")
    return sizes


def lite(spec, *ops):
    """A right answer for others to lean on."""
    sizes = check_sizes(spec, *ops)
    inputs, output = spec.split("->")
    letters = output + "".join(x for x in sizes if x not in output)
    product = None
    for term, op in zip(inputs.split(","), ops, strict=True):
        for letter in set(term):
            while term.count(letter) > 1:
                i, j = term.find(letter), term.rfind(letter)
                op = op.diagonal(dim1=i, dim2=j)
                term = term[:i] + term[i + 1 : j] + term[j + 1 :] + letter
        op = op.permute([term.index(x) for x in letters if x in term])
        op = op.reshape([sizes[x] if x in term else 1 for x in letters])
        product = op if product is None else product * op
    summed = tuple(range(len(output), len(letters)))
    return product.sum(summed) if summed else product


# --- gqa_scores


@accepted("gqa_scores")
def folded_into_the_queries(q, k):
    batch, heads, seq_q, dim = q.shape
    rows = q.reshape(batch, k.shape[1], -1, dim)
    return (rows @ k.mT).reshape(batch, heads, seq_q, -1) / dim**0.5


@accepted("gqa_scores")
def head_by_head(q, k):
    group = q.shape[1] // k.shape[1]
    scores = [q[:, h] @ k[:, h // group].transpose(-1, -2) for h in range(q.shape[1])]
    return torch.stack(scores, dim=1) / math.sqrt(q.size(-1))


@accepted("gqa_scores")
def group_by_group(q, k):
    group = q.shape[1] // k.shape[1]
    q = q * q.shape[-1] ** -0.5
    return torch.cat(
        [part @ k[:, i : i + 1].mT for i, part in enumerate(q.split(group, dim=1))], dim=1
    )


@accepted("gqa_scores")
def with_vmap(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    one = torch.vmap(torch.vmap(lambda q, k: q @ k.mT))
    return one(grouped, k).flatten(1, 2).div(math.sqrt(q.shape[-1]))


@accepted("gqa_scores")
def with_a_view_and_other_letters(q, k):
    batch, heads, seq_q, dim = q.shape
    kv = k.shape[1]
    q = q.view(batch, kv, heads // kv, seq_q, dim) / math.sqrt(dim)
    scores = torch.einsum("nhgld, nhsd -> nhgls", q, k)
    return scores.reshape(batch, heads, seq_q, k.shape[2])


@accepted("gqa_scores")
def with_baddbmm(q, k):
    batch, heads, seq_q, dim = q.shape
    rows = q.reshape(batch * k.shape[1], -1, dim)
    zero = q.new_zeros(())
    scores = torch.baddbmm(zero, rows, k.flatten(0, 1).mT, beta=0, alpha=dim**-0.5)
    return scores.view(batch, heads, seq_q, k.shape[2])


@accepted("gqa_scores")
def written_into_an_empty_table(q, k):
    group = q.shape[1] // k.shape[1]
    out = q.new_empty(*q.shape[:3], k.shape[2])
    for head in range(k.shape[1]):
        own = slice(head * group, (head + 1) * group)
        out[:, own] = torch.einsum("bgqd,btd->bgqt", q[:, own], k[:, head])
    return out.div(q.shape[3] ** 0.5)


@accepted("gqa_scores")
def with_names_for_every_step(q, k):
    batch, heads, seq_q, dim = q.shape
    kv_heads, seq_k = k.shape[1:3]
    groups = q.reshape(batch, kv_heads, heads // kv_heads, seq_q, dim).transpose(2, 3)
    scores = torch.einsum("bkqgd,bktd->bkqgt", groups, k)
    moved = scores.transpose(2, 3).contiguous()
    flat = moved.view(batch, heads, seq_q, seq_k)
    return flat / math.sqrt(dim)


@rejected("gqa_scores", by="test_scores", says="by turns")
def heads_by_turns(q, k):
    grouped = q.unflatten(1, (-1, k.shape[1]))
    scores = torch.einsum("bgkqd,bktd->bgkqt", grouped, k)
    return scores.flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by=("test_scores", "test_forbidden", "test_memory"), says="by turns")
def tiled(q, k):
    k = k.repeat(1, q.shape[1] // k.shape[1], 1, 1)
    return q @ k.mT / q.shape[-1] ** 0.5


@rejected("gqa_scores", by=("test_forbidden", "test_memory"), says="repeat_interleave")
def with_repeat_interleave(q, k):
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_memory", says="at once")
def with_expand_and_flatten(q, k):
    group = q.shape[1] // k.shape[1]
    k = k[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)
    return q @ k.mT / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_memory", says="at once")
def with_an_index(q, k):
    heads = torch.arange(q.shape[1], device=q.device) // (q.shape[1] // k.shape[1])
    return q @ k[:, heads].mT / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_memory", says="at once")
def with_a_broadcast_product(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return (grouped @ k[:, :, None].mT).flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_memory", says="at once")
def multiplied_and_summed(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    products = grouped[..., None, :] * k[:, :, None, None]
    return products.sum(-1).flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_memory", says="at once")
def with_stacked_heads(q, k):
    k = torch.stack([k] * (q.shape[1] // k.shape[1]), 2).flatten(1, 2)
    return q @ k.mT / q.shape[-1] ** 0.5


@rejected("gqa_scores", by=("test_scores", "test_one_kv_head"), says="not divided")
def without_a_scale(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2)


@rejected("gqa_scores", by=("test_scores", "test_as_many_kv_heads"), says="sqrt(heads)")
def scaled_by_the_heads(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2) / q.shape[1] ** 0.5


@rejected("gqa_scores", by="test_scores", says="by dim; it is")
def scaled_by_dim(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2) / q.shape[-1]


@rejected("gqa_scores", by="test_scores", says="multiplied by")
def multiplied_by_the_scale(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2) * q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_scores", says="kv head 0")
def first_kv_head_for_all(q, k):
    return torch.einsum("bhqd,btd->bhqt", q, k[:, 0]) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by=("test_shape", "test_scores"))
def groups_summed(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkqt", grouped, k) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by=("test_shape", "test_scores"))
def groups_not_flattened(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_shape", says="swapped")
def keys_as_rows(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgtq", grouped, k).flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_one_kv_head")
def squeezes_a_lone_kv_head(q, k):
    groups = q.unflatten(1, (k.shape[1], -1)).squeeze(1)
    return torch.einsum("bkgqd,bktd->bkgqt", groups, k).flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_as_many_kv_heads")
def squeezes_a_group_of_one(q, k):
    groups = q.unflatten(1, (k.shape[1], -1)).squeeze()
    return torch.einsum("bkgqd,bktd->bkgqt", groups, k).flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_as_many_kv_heads")
def at_least_two_heads_in_a_group(q, k):
    group = max(2, q.shape[1] // k.shape[1])
    scores = [q[:, h] @ k[:, h // group].mT for h in range(q.shape[1])]
    return torch.stack(scores, 1) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_gradient")
def keys_detached(q, k):
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bkgqd,bktd->bkgqt", grouped, k.detach())
    return scores.flatten(1, 2) / q.shape[-1] ** 0.5


@rejected("gqa_scores", by="test_transposed_views")
def view_of_any_strides(q, k):
    batch, heads, seq_q, dim = q.shape
    rows = q.view(batch, k.shape[1], -1, dim)
    return (rows @ k.mT).view(batch, heads, seq_q, -1) / dim**0.5


@rejected("gqa_scores", by="test_leaves_its_arguments_alone")
def scales_in_place(q, k):
    with torch.no_grad():
        q /= q.shape[-1] ** 0.5
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2)


@rejected("gqa_scores", by="test_device", says="device=")
def scale_of_each_head_on_the_cpu(q, k):
    scale = torch.full((q.shape[1], 1, 1), q.shape[-1] ** -0.5, dtype=q.dtype)
    grouped = q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bkgqd,bktd->bkgqt", grouped, k).flatten(1, 2) * scale


@rejected("gqa_scores", by=("test_shape", "test_scores"), says="float")
def leaves_the_dtype(q, k):
    grouped = q.double().unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bkgqd,bktd->bkgqt", grouped, k.double())
    return scores.flatten(1, 2) / q.shape[-1] ** 0.5


# --- chain_cost


@accepted("chain_cost")
def with_a_cache(shapes):
    sizes = [shapes[0][0], *(columns for _, columns in shapes)]

    @functools.cache
    def best(i, j):
        if j - i == 1:
            return 0, ()
        options = []
        for k in range(i + 1, j):
            (left, first), (right, second) = best(i, k), best(k, j)
            cost = left + right + sizes[i] * sizes[k] * sizes[j]
            moved = tuple((a + k - i, b + k - i) for a, b in second)  # the right part first
            options.append((cost, (*moved, *first, (0, 1))))
        return min(options)

    cost, order = best(0, len(shapes))
    return cost, list(order)


@accepted("chain_cost")
def tries_every_order(shapes):
    if len(shapes) == 1:
        return 0, []
    options = []
    seen = {}

    def cheapest(chain):
        if len(chain) == 1:
            return 0, []
        if chain not in seen:
            options = []
            for i in range(len(chain) - 1):
                (r, c), (_, k) = chain[i], chain[i + 1]
                cost, order = cheapest((*chain[:i], (r, k), *chain[i + 2 :]))
                options.append((cost + r * c * k, [(i, i + 1), *order]))
            seen[chain] = min(options)
        return seen[chain]

    options.append(cheapest(tuple(shapes)))
    return options[0]


@accepted("chain_cost")
def plain_recursion(shapes):
    def solve(i, j):
        if i == j:
            return 0, []
        best = None
        for k in range(i, j):
            left, right = solve(i, k), solve(k + 1, j)
            cost = left[0] + right[0] + shapes[i][0] * shapes[k][1] * shapes[j][1]
            if best is None or cost < best[0]:
                after = [(a + 1, b + 1) for a, b in right[1]]
                best = cost, left[1] + after + [(0, 1)]
        return best

    return solve(0, len(shapes) - 1)


def in_order(shapes, order):
    """The cost of an order, and the order."""
    rest, total = list(shapes), 0
    for i, _ in order:
        (r, c), (_, k) = rest[i], rest[i + 1]
        total += r * c * k
        rest[i : i + 2] = [(r, k)]
    return total, list(order)


def tree_cost(shapes):
    """The least cost, and the order as a nested pair of positions."""

    @functools.cache
    def best(i, j):
        if i == j:
            return 0, i
        options = []
        for k in range(i, j):
            (left, a), (right, b) = best(i, k), best(k + 1, j)
            cost = left + right + shapes[i][0] * shapes[k][1] * shapes[j][1]
            options.append((cost, k, (a, b)))
        cost, _, tree = min(options)
        return cost, tree

    return best(0, len(shapes) - 1)


@accepted("chain_cost")
def all_permutations(shapes):
    best = None
    for steps in itertools.permutations(range(len(shapes) - 1)):
        alive, rest, total, order = list(range(len(shapes) - 1)), list(shapes), 0, []
        for step in steps:
            i = alive.index(step)
            alive.remove(step)
            (r, c), (_, k) = rest[i : i + 2]
            total += r * c * k
            rest[i : i + 2] = [(r, k)]
            order.append((i, i + 1))
        if best is None or total < best[0]:
            best = total, order
    return best


@rejected("chain_cost", by="test_cost", says="from left to right")
def from_left_to_right(shapes):
    return in_order(shapes, [(0, 1)] * (len(shapes) - 1))


@rejected("chain_cost", by="test_cost")
def from_right_to_left(shapes):
    return in_order(shapes, [(i, i + 1) for i in reversed(range(len(shapes) - 1))])


@rejected("chain_cost", by="test_cost", says="cheapest product each time")
def greedy(shapes):
    rest, order = list(shapes), []
    while len(rest) > 1:
        costs = [rest[i][0] * rest[i][1] * rest[i + 1][1] for i in range(len(rest) - 1)]
        i = costs.index(min(costs))
        order.append((i, i + 1))
        rest[i : i + 2] = [(rest[i][0], rest[i + 1][1])]
    return in_order(shapes, order)


@rejected("chain_cost", by="test_cost")
def shrinks_the_largest_size(shapes):
    rest, order = list(shapes), []
    while len(rest) > 1:
        inner = [columns for _, columns in rest[:-1]]
        i = inner.index(max(inner))
        order.append((i, i + 1))
        rest[i : i + 2] = [(rest[i][0], rest[i + 1][1])]
    return in_order(shapes, order)


@rejected("chain_cost", by=("test_cost", "test_two_matrices"), says="multiply-add")
def counts_additions_too(reference: str) -> str:
    return reference.replace("return cost[0][-1], order(0", "return 2 * cost[0][-1], order(0")


@rejected("chain_cost", by="test_order", says="list as it is by then")
def positions_of_the_beginning(shapes):
    cost, tree = tree_cost(shapes)

    def walk(tree):
        if isinstance(tree, int):
            return tree, tree, []
        (i, k, left), (_, j, right) = walk(tree[0]), walk(tree[1])
        return i, j, [*left, *right, (k, k + 1)]

    _, _, order = walk(tree)
    steps, length = [], len(shapes)
    for a, _ in order:  # kept inside the list, so that it can be carried out
        a = min(a, length - 2)
        steps.append((a, a + 1))
        length -= 1
    return cost, steps


@rejected("chain_cost", by="test_order", says="takes the place")
def positions_never_move(reference: str) -> str:
    return reference.replace("(place, place + 1)]", "(k, k + 1)]")


@rejected("chain_cost", by="test_order")
def last_product_first(shapes):
    cost, order = chain_by_table(shapes)
    return cost, order[::-1]


@rejected("chain_cost", by="test_order")
def right_part_not_moved(reference: str) -> str:
    return reference.replace("order(k + 1, j, place + 1)", "order(k + 1, j, place)")


@rejected("chain_cost", by="test_order", says="products")
def forgets_the_last_step(reference: str) -> str:
    return reference.replace(
        "return cost[0][-1], order(0, count - 1, 0)",
        "steps = order(0, count - 1, 0)\n"
        "    return cost[0][-1], steps[:-1] if count > 2 else steps",
    )


@rejected("chain_cost", by="test_order", says="neighbours")
def pairs_of_any_positions(reference: str) -> str:
    return reference.replace("(place, place + 1)]", "(place, j)]")


@rejected("chain_cost", by="test_order")
def order_of_another_chain(shapes):
    cost, _ = tree_cost(shapes)
    return cost, [(0, 1)] * (len(shapes) - 1)


@rejected("chain_cost", by="test_one_matrix")
def fails_for_one_matrix(shapes):
    cost, order = chain_by_table(shapes)
    return min(((cost, order) for _ in shapes[1:]), default=None)


@rejected("chain_cost", by="test_one_matrix", says="expected 0")
def one_matrix_costs_its_size(shapes):
    if len(shapes) == 1:
        return shapes[0][0] * shapes[0][1], []
    return chain_by_table(shapes)


@rejected("chain_cost", by="test_two_matrices")
def two_matrices_in_no_step(shapes):
    cost, order = chain_by_table(shapes)
    return cost, [] if len(shapes) == 2 else order


@rejected("chain_cost", by="test_longer_chains")
def exact_up_to_six_only(shapes):
    if len(shapes) <= 6:
        return chain_by_table(shapes)
    rest, order = list(shapes), []
    while len(rest) > 1:
        costs = [rest[i][0] * rest[i][1] * rest[i + 1][1] for i in range(len(rest) - 1)]
        i = costs.index(min(costs))
        order.append((i, i + 1))
        rest[i : i + 2] = [(rest[i][0], rest[i + 1][1])]
    return in_order(shapes, order)


@rejected("chain_cost", by="test_types", says="int")
def cost_as_a_float(shapes):
    cost, order = chain_by_table(shapes)
    return float(cost), order


@rejected("chain_cost", by="test_types", says="tuple of the cost")
def the_cost_alone(shapes):
    return chain_by_table(shapes)[0]


@rejected("chain_cost", by="test_types", says="after the call the list")
def eats_its_argument(shapes):
    answer = chain_by_table(shapes)
    for i, _ in answer[1]:
        shapes[i : i + 2] = [(shapes[i][0], shapes[i + 1][1])]
    return answer


@rejected("chain_cost", by=("test_types", "test_order"), says="pairs")
def first_positions_alone(shapes):
    cost, order = chain_by_table(shapes)
    return cost, [i for i, _ in order]


def chain_by_table(shapes):
    """A right answer for others to lean on."""
    cost, tree = tree_cost(shapes)

    def walk(tree, place):
        if isinstance(tree, int):
            return []
        return [*walk(tree[0], place), *walk(tree[1], place + 1), (place, place + 1)]

    return cost, walk(tree, 0)


# --- linear_attention


def phi(x):
    """The feature map, for others to lean on."""
    return F.elu(x) + 1


def attend(q, k, v, causal):
    """What is left once q and k are features; right, for others to lean on."""
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(2)[..., None])
    state = (k[..., None] * v[..., None, :]).cumsum(2)
    return (q[..., None, :] @ state)[..., 0, :] / (q * k.cumsum(2)).sum(-1, keepdim=True)


@accepted("linear_attention")
def with_where_on_both_sides(q, k, v, causal=False):
    def feature(x):
        return torch.where(x > 0, x + 1, x.clamp(max=0).exp())

    return attend(feature(q), feature(k), v, causal)


@accepted("linear_attention")
def with_ones_beside_the_values(q, k, v, causal=False):
    q, k = torch.nn.ELU()(q) + 1.0, torch.nn.ELU()(k) + 1.0
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    if causal:
        both = torch.einsum("...nd,...ne->...nde", k, v).cumsum(-3)
        both = torch.einsum("...nd,...nde->...ne", q, both)
    else:
        both = q @ torch.matmul(k.transpose(-2, -1), v)
    return both[..., :-1] / both[..., -1:]


@accepted("linear_attention")
def with_broadcasting_alone(q, k, v, causal=False):
    q, k = 1 + F.elu(q), 1 + F.elu(k)
    state, norm = k.unsqueeze(-1) * v.unsqueeze(-2), k
    if causal:
        state, norm = state.cumsum(dim=2), norm.cumsum(dim=2)
    else:
        state, norm = state.sum(2, keepdim=True), norm.sum(2, keepdim=True)
    return (q.unsqueeze(-1) * state).sum(-2) / (q * norm).sum(-1, keepdim=True)


@accepted("linear_attention")
def chunk_by_chunk(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = q.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    norm = q.new_zeros(*k.shape[:2], k.shape[3], 1)
    out = []
    for a, b, c in zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True):
        weights = (a @ b.mT).tril()
        above = a @ state + weights @ c
        below = a @ norm + weights.sum(-1, keepdim=True)
        out.append(above / below)
        state = state + b.mT @ c
        norm = norm + b.sum(2)[..., None]
    return torch.cat(out, 2)


@accepted("linear_attention")
def step_by_step(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state, norm, out = 0, 0, []
    for n in range(q.shape[2]):
        state = state + k[:, :, n, :, None] * v[:, :, n, None, :]
        norm = norm + k[:, :, n]
        row = torch.einsum("bhd,bhde->bhe", q[:, :, n], state)
        out.append(row / (q[:, :, n] * norm).sum(-1, keepdim=True))
    return torch.stack(out, dim=2)


@accepted("linear_attention")
def with_vmap_over_heads(q, k, v, causal=False):
    def one(q, k, v):  # (seq, dim), (seq, dim), (seq, dim_v)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if causal:
            state = torch.cumsum(k[:, :, None] * v[:, None, :], 0)
            return torch.einsum("nd,nde->ne", q, state) / (q * k.cumsum(0)).sum(1, keepdim=True)
        return q @ (k.T @ v) / (q @ k.sum(0))[:, None]

    return torch.vmap(torch.vmap(one))(q, k, v)


@accepted("linear_attention")
def with_a_mean_in_place_of_the_sum(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    # The same factor above and below the line.
    return q @ (k.mT @ v / k.shape[2]) / (q @ k.mean(2).unsqueeze(-1))


@accepted("linear_attention")
def relu_and_exp(q, k, v, causal=False):
    q, k = (x.relu() + torch.exp(-torch.relu(-x)) for x in (q, k))
    return attend(q, k, v, causal)


@accepted("linear_attention")
def all_chunks_at_once(q, k, v, causal=False):
    size, seq = 16, q.shape[2]
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    q, k, v = (F.pad(x, (0, 0, 0, -seq % size)).unflatten(2, (-1, size)) for x in (q, k, v))
    v = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], -1)
    state = k.mT @ v
    before = state.cumsum(2) - state
    both = (q @ k.mT).tril() @ v + q @ before
    both = both.flatten(2, 3)[:, :, :seq]
    return both[..., :-1] / both[..., -1:]


@rejected("linear_attention", by=("test_no_square", "test_speed"), says="(1, 512, 512)")
def quadratic_form(q, k, v, causal=False):
    weights = phi(q) @ phi(k).mT
    if causal:
        return attend(phi(q), phi(k), v, True)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@rejected("linear_attention", by="test_no_square_with_causal", says="(1, 512, 512)")
def quadratic_only_with_causal(q, k, v, causal=False):
    if not causal:
        return attend(phi(q), phi(k), v, False)
    weights = (phi(q) @ phi(k).mT).tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


@rejected("linear_attention", by="test_no_square", says="(1, 512, 512)")
def quadratic_with_a_linear_normaliser(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    weights = torch.einsum("bhnd,bhtd->bhnt", q, k)
    return torch.einsum("bhnt,bhte->bhne", weights, v) / (q @ k.sum(2)[..., None])


@rejected("linear_attention", by=("test_no_loop", "test_speed"), says="loop")
def loops_over_steps(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    state, norm = 0, 0
    for n in range(q.shape[2]):
        state = state + k[:, :, n, :, None] * v[:, :, n, None, :]
        norm = norm + k[:, :, n]
    return q @ state / (q @ norm[..., None])


@rejected("linear_attention", by="test_no_loop", says="loop")
def loops_over_heads(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    heads = range(q.shape[1])
    return torch.cat([attend(*(x[:, h, None] for x in (q, k, v)), causal) for h in heads], 1)


@rejected("linear_attention", by=("test_values", "test_one_step"), says="not divided")
def forgets_the_normaliser(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v)


@rejected("linear_attention", by=("test_causal_values", "test_one_step"), says="not divided")
def forgets_the_causal_normaliser(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    return torch.einsum("bhnd,bhnde->bhne", q, (k[..., None] * v[..., None, :]).cumsum(2))


@rejected("linear_attention", by=("test_causal_values", "test_future"), says="below it over all")
def normaliser_over_all_steps(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = (k[..., None] * v[..., None, :]).cumsum(2)
    return torch.einsum("bhnd,bhnde->bhne", q, state) / (q @ k.sum(2)[..., None])


@rejected("linear_attention", by=("test_causal_values", "test_future"), says="above it over all")
def sum_over_all_steps(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    return q @ (k.mT @ v) / (q * k.cumsum(2)).sum(-1, keepdim=True)


@rejected("linear_attention", by=("test_causal_values", "test_future"), says="no difference")
def ignores_causal(q, k, v, causal=False):
    return attend(phi(q), phi(k), v, False)


@rejected("linear_attention", by="test_values", says="is False")
def always_causal(q, k, v, causal=False):
    return attend(phi(q), phi(k), v, True)


@rejected("linear_attention", by="test_values", says="is False")
def causal_by_default(q, k, v, causal=True):
    return attend(phi(q), phi(k), v, causal)


@rejected("linear_attention", by="test_causal_values")
def without_the_step_itself(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    k, v = (F.pad(x, (0, 0, 1, 0))[:, :, :-1] for x in (k, v))
    return attend(q, k, v, True)


@rejected("linear_attention", by="test_causal_values")
def chunks_without_a_memory(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    chunks = zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True)
    return torch.cat([attend(a, b, c, True) for a, b, c in chunks], 2)


@rejected("linear_attention", by="test_causal_values")
def chunks_that_see_themselves_twice(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state, norm, out = 0, 0, []
    for a, b, c in zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True):
        state = state + b.mT @ c
        norm = norm + b.sum(2)[..., None]
        out.append(a @ state / (a @ norm))
    return torch.cat(out, 2)


@rejected("linear_attention", by="test_causal_gradient")
def chunks_cut_from_each_other(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = q.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    norm = q.new_zeros(*k.shape[:2], k.shape[3], 1)
    out = []
    for a, b, c in zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True):
        weights = (a @ b.mT).tril()
        out.append((a @ state + weights @ c) / (a @ norm + weights.sum(-1, keepdim=True)))
        state = (state + b.mT @ c).detach()
        norm = (norm + b.sum(2)[..., None]).detach()
    return torch.cat(out, 2)


@rejected("linear_attention", by="test_causal_values")
def cumulative_over_the_heads(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = (k[..., None] * v[..., None, :]).cumsum(1)
    return (q[..., None, :] @ state)[..., 0, :] / (q * k.cumsum(1)).sum(-1, keepdim=True)


@rejected("linear_attention", by=("test_values", "test_rows_are_apart"), says="over the batch")
def state_summed_over_the_batch(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    above = torch.einsum("bhnd,hde->bhne", q, torch.einsum("bhnd,bhne->hde", k, v))
    return above / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))[..., None]


@rejected("linear_attention", by="test_rows_are_apart", says="batch row 0")
def normaliser_summed_over_the_batch(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v) / torch.einsum("bhnd,hd->bhn", q, k.sum((0, 2)))[..., None]


@rejected("linear_attention", by="test_rows_are_apart", says="head 0")
def state_summed_over_the_heads(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    above = torch.einsum("bhnd,bde->bhne", q, torch.einsum("bhnd,bhne->bde", k, v))
    return above / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))[..., None]


@rejected("linear_attention", by="test_values", says="not on v")
def feature_map_on_v(q, k, v, causal=False):
    return attend(phi(q), phi(k), phi(v), causal)


@rejected("linear_attention", by="test_values", says="missing on q and k")
def without_a_feature_map(q, k, v, causal=False):
    return attend(q, k, v, causal)


@rejected("linear_attention", by="test_values", says="on q alone")
def feature_map_on_q_alone(q, k, v, causal=False):
    return attend(phi(q), k, v, causal)


@rejected("linear_attention", by="test_values", says="without the + 1")
def elu_without_one(q, k, v, causal=False):
    return attend(F.elu(q), F.elu(k), v, causal)


@rejected("linear_attention", by="test_values", says="is relu")
def relu_for_elu(q, k, v, causal=False):
    return attend(q.relu(), k.relu(), v, causal)


@rejected("linear_attention", by="test_values", says="is exp")
def exp_for_elu(q, k, v, causal=False):
    return attend(q.exp(), k.exp(), v, causal)


@rejected("linear_attention", by="test_values", says="no scale")
def with_a_scale(q, k, v, causal=False):
    return attend(phi(q * q.shape[-1] ** -0.5), phi(k), v, causal)


@rejected("linear_attention", by=("test_values", "test_causal_values"), says="softmax")
def softmax_attention(q, k, v, causal=False):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


@rejected("linear_attention", by=("test_values", "test_causal_values"))
def softmax_of_the_features(q, k, v, causal=False):
    return attend(q.softmax(-1), k.softmax(-2), v, causal)


@rejected("linear_attention", by="test_values", says="number of steps")
def mean_over_the_steps(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v) / q.shape[2]


@rejected("linear_attention", by="test_small_features", says="epsilon")
def with_an_epsilon(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v) / (q @ k.sum(2)[..., None] + 1e-6)


@rejected("linear_attention", by="test_small_features", says="epsilon of 1e-08")
def with_a_small_epsilon_and_causal(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = (k[..., None] * v[..., None, :]).cumsum(2)
    return (q[..., None, :] @ state)[..., 0, :] / ((q * k.cumsum(2)).sum(-1, keepdim=True) + 1e-8)


@rejected("linear_attention", by="test_small_features")
def with_a_floor(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v) / (q @ k.sum(2)[..., None]).clamp_min(1e-3)


@rejected("linear_attention", by="test_shape")
def transposed_result(q, k, v, causal=False):
    return attend(phi(q), phi(k), v, causal).mT


@rejected("linear_attention", by="test_shape")
def dim_in_place_of_dim_v(q, k, v, causal=False):
    return attend(phi(q), phi(k), v, causal)[..., : q.shape[-1]]


@rejected("linear_attention", by="test_gradient")
def normaliser_detached(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if causal:
        return attend(q, k, v, True)
    return q @ (k.mT @ v) / (q @ k.sum(2)[..., None]).detach()


@rejected("linear_attention", by="test_causal_gradient")
def state_carried_detached(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state, norm, out = 0, 0, []
    for n in range(q.shape[2]):
        state = k[:, :, n, :, None] * v[:, :, n, None, :] + (state.detach() if n else 0)
        norm = k[:, :, n] + (norm.detach() if n else 0)
        row = torch.einsum("bhd,bhde->bhe", q[:, :, n], state)
        out.append(row / (q[:, :, n] * norm).sum(-1, keepdim=True))
    return torch.stack(out, dim=2)


@rejected("linear_attention", by="test_one_step")
def squeezes_a_lone_step(q, k, v, causal=False):
    return attend(phi(q), phi(k), v, causal).squeeze(2)


@rejected("linear_attention", by="test_large_queries", says="gradient")
def where_with_an_infinite_branch(q, k, v, causal=False):
    q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    return attend(q, k, v, causal)


@rejected("linear_attention", by="test_large_queries")
def largest_feature_taken_out(q, k, v, causal=False):
    q = q.clamp(max=100.0)
    return attend(phi(q), phi(k), v, causal)


@rejected("linear_attention", by="test_transposed_views")
def view_of_any_strides_of_heads(q, k, v, causal=False):
    batch, heads, seq, dim = q.shape
    q, k, v = (x.view(batch * heads, 1, seq, -1) for x in (q, k, v))
    return attend(phi(q), phi(k), v, causal).view(batch, heads, seq, -1)


@rejected("linear_attention", by="test_leaves_its_arguments_alone")
def features_in_place(q, k, v, causal=False):
    with torch.no_grad():
        q += 0
    return attend(phi(q), phi(k), v, causal)


@rejected("linear_attention", by="test_device")
def state_on_the_cpu(q, k, v, causal=False):
    q, k = phi(q), phi(k)
    if not causal:
        return attend(q, k, v, False)
    state = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=q.dtype)
    norm = torch.zeros(*k.shape[:3][:2], k.shape[3], dtype=q.dtype)
    out = []
    for n in range(q.shape[2]):
        state = state + k[:, :, n, :, None] * v[:, :, n, None, :]
        norm = norm + k[:, :, n]
        row = torch.einsum("bhd,bhde->bhe", q[:, :, n], state)
        out.append(row / (q[:, :, n] * norm).sum(-1, keepdim=True))
    return torch.stack(out, dim=2)


@rejected("linear_attention", by="test_speed", says="times as long")
def in_double_and_back_four_times(q, k, v, causal=False):
    for _ in range(40):
        result = attend(phi(q.double()), phi(k.double()), v.double(), causal).to(v.dtype)
    return result
