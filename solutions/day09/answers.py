"""Answers to day 9 that its suite must accept or reject."""

import math

import torch
from losses import *
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from grader.answers import accepted, rejected

# --- prepare


@accepted("prepare")
def flattened(loss, out, target):
    if loss == "seq_ce":
        return out.flatten(0, 1), target.flatten().long()
    if loss in ("mse", "l1", "bce"):
        return out.view(-1), target.view(-1).type_as(out)
    if target.shape == out.shape:
        target = target.int().argmax(-1)
    return out, target.to(torch.int64)


@accepted("prepare")
def one_hot_as_probabilities(loss, out, target):
    match loss:
        case "seq_ce":
            return out.permute(0, 2, 1), target.to(torch.long)
        case "ce" if target.dim() == 2:
            return out, target.to(out.dtype)
        case "nll" if target.dim() == 2:
            return out, target.nonzero()[:, 1]
        case "ce" | "nll":
            return out, target.long()
        case _:
            return out.reshape(-1, 1), target.reshape(-1, 1).to(out.dtype)


@accepted("prepare")
def squeezed_where_there_is_a_column(loss, out, target):
    if loss == "seq_ce":
        return out.mT, target.long()
    if loss in {"ce", "nll"}:
        return (out, target.float().max(dim=1).indices) if target.ndim > 1 else (out, target.long())
    if out.ndim == 2:
        out = out.squeeze(1)
    if target.ndim == 2:
        target = target.squeeze(1)
    return out, target.to(dtype=out.dtype)


@accepted("prepare")
def by_view_as(loss, out, target):
    if loss == "seq_ce":
        return out.view(-1, out.size(-1)), target.reshape(-1).long()
    if loss in ("ce", "nll"):
        target = target.long()
        if target.ndim == 2:
            target = (target * torch.arange(target.shape[1], device=target.device)).sum(1)
        return out, target
    return out, target.to(out).view_as(out)


@rejected("prepare", by="test_batch_of_one")
def squeezes_everything(loss, out, target):
    if loss == "seq_ce":
        return out.transpose(1, 2).squeeze(), target.squeeze().long()
    if loss in ("ce", "nll"):
        target = target.long()
        return out, target.argmax(1) if target.ndim == 2 else target
    return out.squeeze(), target.squeeze().to(out.dtype)


@rejected("prepare", by="test_batch_of_one")
def squeezes_the_last_axis(loss, out, target):
    if loss == "seq_ce":
        return out.transpose(1, 2), target.long()
    if loss in ("ce", "nll"):
        target = target.long()
        return out, target.argmax(1) if target.ndim == 2 else target
    return out.squeeze(-1), target.squeeze(-1).to(out.dtype)


@rejected("prepare", by="test_sequence", says="swap the axes")
def views_the_sequence(reference):
    return reference.replace(
        "out.transpose(1, 2), target.long()",
        "out.view(out.shape[0], out.shape[2], out.shape[1]), target.long()",
    )


@rejected("prepare", by="test_sequence")
def classes_stay_last(reference):
    return reference.replace("out.transpose(1, 2), target.long()", "out, target.long()")


@rejected("prepare", by=("test_class_indices", "test_sequence"))
def floats_for_classes(loss, out, target):
    if loss == "seq_ce":
        return out.transpose(1, 2), target.float()
    if loss in ("ce", "nll"):
        return out, target.float()
    return out, target.reshape(out.shape).to(out.dtype)


@rejected("prepare", by="test_class_indices", says="int")
def leaves_int32(loss, out, target):
    if loss == "seq_ce":
        return out.transpose(1, 2), target
    if loss in ("ce", "nll"):
        return out, target.argmax(1) if target.ndim == 2 else target
    return out, target.reshape(out.shape).to(out.dtype)


@rejected("prepare", by=("test_class_indices", "test_out_is_not_copied"))
def argmax_of_the_output(loss, out, target):
    if loss in ("ce", "nll"):
        return out.argmax(1).float(), target.float()
    return out.transpose(1, 2) if loss == "seq_ce" else out, target


@rejected("prepare", by="test_one_hot")
def one_hot_for_nll_too(reference):
    return reference.replace(
        "return out, target.argmax(1) if target.ndim == 2 else target",
        "return out, target.to(out.dtype) if target.ndim == 2 else target",
    )


@rejected("prepare", by="test_one_hot")
def argmax_over_the_batch(reference):
    return reference.replace("target.argmax(1)", "target.argmax(0)")


@rejected("prepare", by="test_column_and_vector", says="all pairs")
def shapes_left_alone(reference):
    return reference.replace("target.reshape(out.shape).to", "target.to")


@rejected("prepare", by="test_column_and_vector", says="all pairs")
def target_always_a_column(reference):
    return reference.replace("target.reshape(out.shape).to", "target.reshape(-1, 1).to")


@rejected("prepare", by=("test_target_dtypes", "test_binary"))
def dtype_left_alone(reference):
    return reference.replace("target.reshape(out.shape).to(out.dtype)", "target.reshape(out.shape)")


@rejected("prepare", by="test_target_dtypes")
def only_integers_are_converted(reference):
    return reference.replace(
        "target.reshape(out.shape).to(out.dtype)",
        "target.reshape(out.shape) if target.is_floating_point() else "
        "target.reshape(out.shape).to(out.dtype)",
    )


@rejected("prepare", by="test_binary")
def bce_with_indices(reference):
    return reference.replace(
        "    return out, target.reshape",
        '    if loss == "bce":\n        return out, target.reshape(out.shape).long()\n'
        "    return out, target.reshape",
    )


@rejected("prepare", by="test_out_is_not_copied", says="copy")
def contiguous_for_the_sequence(reference):
    return reference.replace("out.transpose(1, 2)", "out.transpose(1, 2).contiguous()")


@rejected("prepare", by="test_out_is_not_copied", says="float32")
def out_to_the_targets_dtype(loss, out, target):
    if loss in ("mse", "l1", "bce") and target.is_floating_point():
        return out.to(target.dtype), target.reshape(out.shape)
    if loss == "seq_ce":
        return out.transpose(1, 2), target.long()
    if loss in ("ce", "nll"):
        target = target.long()
        return out, target.argmax(1) if target.ndim == 2 else target
    return out, target.reshape(out.shape).to(out.dtype)


@rejected("prepare", by=("test_column_and_vector", "test_sequence"), says="left the graph")
def detaches(reference):
    return reference.replace("return out,", "return out.detach(),").replace(
        "return out.transpose", "return out.detach().transpose"
    )


@rejected("prepare", by="test_class_indices", says="softmax was applied")
def softmax_first(reference):
    return reference.replace(
        "return out, target.argmax(1)", "return out.softmax(1), target.argmax(1)"
    )


# --- bce_with_logits


@accepted("bce_with_logits")
def with_logsigmoid(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    positive = y * F.logsigmoid(z)
    if pos_weight is not None:
        positive = pos_weight * positive
    loss = -(positive + (1 - y) * F.logsigmoid(-z))
    return {"mean": loss.mean, "sum": loss.sum, "none": lambda: loss}[reduction]()


@accepted("bce_with_logits")
def with_logaddexp(z, y, pos_weight=None, reduction="mean"):
    if z.size() != y.size():
        raise ValueError(f"{z.size()} and {y.size()}")
    pos_weight = torch.ones_like(z) if pos_weight is None else pos_weight
    zero = torch.zeros_like(z)
    loss = pos_weight * y * torch.logaddexp(zero, -z) + (1 - y) * torch.logaddexp(zero, z)
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss


@accepted("bce_with_logits")
def with_log1p(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    weight = 1.0 if pos_weight is None else 1 + (pos_weight - 1) * y
    loss = (1 - y) * z + weight * (torch.log1p(torch.exp(-z.abs())) + (-z).clamp(min=0))
    return loss if reduction == "none" else getattr(loss, reduction)()


@accepted("bce_with_logits")
def with_two_classes(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    logp = torch.stack([torch.zeros_like(z), z], -1).log_softmax(-1)
    positive = logp[..., 1] if pos_weight is None else pos_weight * logp[..., 1]
    loss = -(y * positive + (1 - y) * logp[..., 0])
    return loss if reduction == "none" else getattr(torch, reduction)(loss)


@rejected("bce_with_logits", by="test_huge_logits", says="log of the sigmoid in one step")
def log_of_sigmoid(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    p, w = z.sigmoid(), 1 if pos_weight is None else pos_weight
    loss = -(w * y * p.log() + (1 - y) * (1 - p).log())
    return loss if reduction == "none" else getattr(loss, reduction)()


@rejected("bce_with_logits", by=("test_huge_gradients", "test_huge_logits"), says="clamp")
def clamped(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    p, w = z.sigmoid().clamp(1e-7, 1 - 1e-7), 1 if pos_weight is None else pos_weight
    loss = -(w * y * p.log() + (1 - y) * (1 - p).log())
    return loss if reduction == "none" else getattr(loss, reduction)()


@rejected("bce_with_logits", by="test_huge_logits", says="clamp")
def clamped_logits(reference):
    return reference.replace(
        "    loss = (1 - y) * z + weight",
        "    z = z.clamp(-50, 50)\n    loss = (1 - y) * z + weight",
    )


@rejected("bce_with_logits", by="test_huge_gradients")
def right_value_clamped_gradient(reference):
    return reference.replace(
        "    loss = (1 - y) * z + weight",
        "    z = z.clamp(-50, 50) + (z - z.clamp(-50, 50)).detach()\n"
        "    loss = (1 - y) * z + weight",
    )


@rejected("bce_with_logits", by="test_huge_logits")
def with_log_of_one_plus_exp(reference):
    return reference.replace("F.softplus(-z)", "(1 + (-z).exp()).log()")


@rejected("bce_with_logits", by="test_huge_gradients")
def with_a_where(reference):
    return reference.replace("F.softplus(-z)", "torch.where(z < -50, -z, (-z).exp().log1p())")


@rejected("bce_with_logits", by="test_pos_weight", says="both terms")
def weight_on_both(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    loss = (1 - y) * z + F.softplus(-z)
    if pos_weight is not None:
        loss = pos_weight * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


@rejected("bce_with_logits", by="test_pos_weight", says="no effect")
def weight_not_used(reference):
    return reference.replace(
        "weight = 1 if pos_weight is None else 1 + (pos_weight - 1) * y", "weight = 1"
    )


@rejected("bce_with_logits", by="test_pos_weight")
def mean_over_the_weights(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    weight = torch.ones_like(y) if pos_weight is None else 1 + (pos_weight - 1) * y
    loss = (1 - y) * z + weight * F.softplus(-z)
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return loss if reduction == "none" else loss.sum()


@rejected("bce_with_logits", by="test_shape_mismatch", says="labels that are not its own")
def broadcasts(reference):
    return reference.replace("if z.shape != y.shape:", "if False:")


@rejected("bce_with_logits", by="test_shape_mismatch", says="not its own")
def numel_is_enough(reference):
    return reference.replace("if z.shape != y.shape:", "if z.numel() != y.numel():")


@rejected("bce_with_logits", by="test_shape_mismatch", says="ValueError")
def asserts(reference):
    return reference.replace(
        '    if z.shape != y.shape:\n        raise ValueError(f"logits are {tuple(z.shape)}, '
        'targets {tuple(y.shape)}")\n',
        "    assert z.shape == y.shape\n",
    )


@rejected("bce_with_logits", by="test_soft_labels")
def labels_above_half_are_one(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    positive = F.softplus(-z) if pos_weight is None else pos_weight * F.softplus(-z)
    loss = torch.where(y > 0.5, positive, F.softplus(z))
    return loss if reduction == "none" else getattr(loss, reduction)()


@rejected("bce_with_logits", by="test_forbidden")
def with_torchs_own(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    return F.binary_cross_entropy_with_logits(z, y, pos_weight=pos_weight, reduction=reduction)


@rejected("bce_with_logits", by="test_forbidden")
def with_torchs_module(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    return torch.nn.BCEWithLogitsLoss(pos_weight=pos_weight, reduction=reduction)(z, y)


@rejected("bce_with_logits", by="test_reductions")
def always_the_mean(z, y, pos_weight=None, reduction="mean"):
    if z.shape != y.shape:
        raise ValueError("shapes differ")
    weight = 1 if pos_weight is None else 1 + (pos_weight - 1) * y
    return ((1 - y) * z + weight * F.softplus(-z)).mean()


@rejected("bce_with_logits", by=("test_value", "test_gradient"), says="exchanged")
def sign_of_the_logit(reference):
    return (
        reference.replace("(1 - y) * z + weight", "-y * z + weight")
        .replace("weight * F.softplus(-z)", "F.softplus(z)")
        .replace("-y * z + F.softplus(z)", "y * z + F.softplus(-z)")
    )


@rejected("bce_with_logits", by="test_gradient")
def from_data(reference):
    return reference.replace("weight * F.softplus(-z)", "weight * F.softplus(-z.detach())")


@rejected("bce_with_logits", by="test_arguments")
def into_the_labels(reference):
    return reference.replace(
        "    loss = (1 - y) * z + weight * F.softplus(-z)",
        "    loss = F.softplus(-z) * weight\n    loss = loss + y.neg_().add_(1) * z",
    )


# --- cross_entropy


@accepted("cross_entropy")
def by_logsumexp(
    logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    kept = target != ignore_index
    safe = torch.where(kept, target, torch.zeros_like(target))
    total = logits.logsumexp(1)
    loss = total - logits.gather(1, safe.unsqueeze(1)).squeeze(1)
    scale = torch.ones_like(loss) if weight is None else weight[safe]
    loss = loss * scale
    if label_smoothing > 0:
        w = logits.new_ones(logits.shape[1]) if weight is None else weight
        w = w.view(1, -1, *[1] * (logits.ndim - 2))
        every = (w * (total.unsqueeze(1) - logits)).mean(1)
        loss = (1 - label_smoothing) * loss + label_smoothing * every
    loss = loss.masked_fill(~kept, 0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / scale.masked_fill(~kept, 0).sum()


@accepted("cross_entropy")
def by_rows_that_count(
    logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    classes = logits.shape[1]
    rows = logits.movedim(1, -1).reshape(-1, classes)
    labels = target.reshape(-1)
    kept = labels != ignore_index
    logp = torch.log_softmax(rows[kept], dim=-1)
    labels = labels[kept]
    w = logits.new_ones(classes) if weight is None else weight
    nll = -logp[torch.arange(len(labels), device=labels.device), labels] * w[labels]
    loss = (1 - label_smoothing) * nll - label_smoothing / classes * (logp @ w)
    if reduction == "none":
        return logits.new_zeros(target.numel()).masked_scatter(kept, loss).view(target.shape)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / w[labels].sum()


@accepted("cross_entropy")
def by_a_named_log_softmax(
    logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    top = logits.amax(dim=1, keepdim=True)
    shifted = logits - top
    logp = shifted - shifted.exp().sum(1, keepdim=True).log()
    mask = target.ne(ignore_index)
    index = target.clamp(0, logits.shape[1] - 1)
    shape = [1, -1] + [1] * (logits.dim() - 2)
    nll = -logp.gather(1, index.unsqueeze(1)).squeeze(1)
    w = mask.to(logits.dtype)
    if weight is not None:
        w = w * weight[index]
    loss = nll * w
    if label_smoothing != 0:
        spread = -(logp if weight is None else logp * weight.view(shape)).mean(1) * mask
        loss = loss * (1 - label_smoothing) + spread * label_smoothing
    return {"none": lambda: loss, "sum": loss.sum, "mean": lambda: loss.sum() / w.sum()}[
        reduction
    ]()


@rejected("cross_entropy", by="test_huge_logits")
def log_of_softmax(reference):
    return reference.replace("logits.log_softmax(1)", "logits.softmax(1).log()")


@rejected("cross_entropy", by="test_huge_logits")
def log_of_clamped_softmax(reference):
    return reference.replace("logits.log_softmax(1)", "(logits.softmax(1) + 1e-30).log()")


@rejected("cross_entropy", by="test_huge_logits")
def log_of_the_sum_of_exp(reference):
    return reference.replace(
        "logits.log_softmax(1)", "logits - logits.exp().sum(1, keepdim=True).log()"
    )


@rejected("cross_entropy", by="test_ignore_index", says="ignored ones included")
def divides_by_all(reference):
    return reference.replace(
        "loss.sum() / counted.sum()",
        "loss.sum() / (counted.numel() if weight is None else weight[index].sum())",
    )


@rejected("cross_entropy", by="test_weight", says="sum of the weights")
def divides_by_the_number(reference):
    return reference.replace("loss.sum() / counted.sum()", "loss.sum() / kept.sum()")


@rejected("cross_entropy", by="test_more_axes", says="last axis")
def normalised_over_the_last_axis(reference):
    return reference.replace("logits.log_softmax(1)", "logits.log_softmax(-1)")


@rejected("cross_entropy", by="test_more_axes")
def divides_by_the_batch(reference):
    return reference.replace(
        "loss.sum() / counted.sum()", "loss.sum() / counted.sum() * target[0].numel()"
    )


@rejected("cross_entropy", by="test_label_smoothing", says="classes - 1")
def smooths_over_the_others(reference):
    return reference.replace(
        "loss = (1 - label_smoothing) * loss + label_smoothing / logits.shape[1] * smooth * kept",
        "loss = (1 - label_smoothing) * loss"
        " + label_smoothing / (logits.shape[1] - 1) * (smooth * kept - loss)",
    )


@rejected("cross_entropy", by="test_label_smoothing", says="1 / classes")
def smooths_with_the_sum(reference):
    return reference.replace(
        "label_smoothing / logits.shape[1] * smooth", "label_smoothing * smooth"
    )


@rejected("cross_entropy", by="test_label_smoothing", says="not reduced")
def smoothing_on_top(reference):
    return reference.replace("loss = (1 - label_smoothing) * loss +", "loss = loss +")


@rejected("cross_entropy", by="test_options_together", says="still have")
def smoothing_of_ignored_targets(reference):
    return reference.replace("* smooth * kept", "* smooth")


@rejected("cross_entropy", by="test_options_together", says="lacks the weights")
def smoothing_without_class_weights(reference):
    return reference.replace(
        "weights = logp.new_ones(logits.shape[1]) if weight is None else weight",
        "weights = logp.new_ones(logits.shape[1])",
    )


@rejected("cross_entropy", by="test_options_together", says="each class has its own")
def smoothing_with_the_targets_weight(reference):
    return reference.replace(
        "weights = logp.new_ones(logits.shape[1]) if weight is None else weight",
        "weights = logp.new_ones(logits.shape[1])",
    ).replace("* smooth * kept", "* smooth * counted")


@rejected("cross_entropy", by="test_ignore_index")
def gathers_the_ignored(reference):
    return reference.replace("index = target.where(kept, 0)", "index = target")


@rejected("cross_entropy", by="test_ignore_index")
def negative_is_ignored(reference):
    return reference.replace("kept = target != ignore_index", "kept = target >= 0").replace(
        "target.where(kept, 0)", "target.clamp(0, logits.shape[1] - 1)"
    )


@rejected("cross_entropy", by="test_ignore_index", says="count like others")
def clamped_but_not_masked(reference):
    return reference.replace(
        "kept = target != ignore_index", "kept = torch.ones_like(target, dtype=torch.bool)"
    ).replace("target.where(kept, 0)", "target.clamp(0, logits.shape[1] - 1)")


@rejected("cross_entropy", by="test_arguments", says="target was changed")
def into_the_targets(reference):
    return reference.replace(
        "index = target.where(kept, 0)", "index = target.masked_fill_(~kept, 0)"
    )


@rejected("cross_entropy", by="test_arguments")
def ones_on_the_cpu(reference):
    return reference.replace(
        "counted = kept.to(logp.dtype) if weight is None else kept * weight[index]",
        "w = torch.ones(logits.shape[1]).to(logp.dtype)\n"
        "    w = w + torch.zeros(logits.shape[1]) if weight is None else w * weight\n"
        "    counted = kept * w[index]",
    )


@rejected("cross_entropy", by="test_all_ignored", says="nan")
def zero_if_all_are_ignored(reference):
    return reference.replace(
        "loss.sum() / counted.sum()",
        "(loss.sum() / counted.sum() if kept.any() else loss.sum())",
    )


@rejected("cross_entropy", by="test_all_ignored", says="nan")
def denominator_at_least_one(reference):
    return reference.replace(
        "loss.sum() / counted.sum()",
        "(loss.sum() / counted.sum().clamp(min=1e-8))",
    )


@rejected("cross_entropy", by="test_memory")
def with_a_one_hot(reference):
    return reference.replace(
        "    loss = -logp.gather(1, index[:, None])[:, 0] * counted\n",
        "    hot = F.one_hot(index, logits.shape[1]).movedim(-1, 1).to(logp.dtype)\n"
        "    loss = -(logp * hot).sum(1) * counted\n",
    )


@rejected("cross_entropy", by="test_forbidden")
def torchs_own(
    logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    return F.cross_entropy(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


@rejected("cross_entropy", by="test_forbidden")
def with_nll_loss(reference):
    return reference.replace(
        "loss = -logp.gather(1, index[:, None])[:, 0] * counted",
        'loss = F.nll_loss(logp, index, reduction="none") * counted',
    )


@rejected("cross_entropy", by="test_reductions")
def sum_is_the_mean(reference):
    return reference.replace(
        'return loss.sum() if reduction == "sum" else loss.sum() / counted.sum()',
        "return loss.sum() / counted.sum()",
    )


@rejected("cross_entropy", by="test_value", says="softmax was applied before")
def softmax_twice(reference):
    return reference.replace("logits.log_softmax(1)", "logits.softmax(1).log_softmax(1)")


@rejected("cross_entropy", by="test_gradient")
def denominator_of_logp_detached(reference):
    return reference.replace(
        "logits.log_softmax(1)", "logits - logits.logsumexp(1, keepdim=True).detach()"
    )


@rejected("cross_entropy", by="test_gradient_rows", says="softmax minus one-hot")
def normaliser_without_gradient(reference):
    return reference.replace(
        "logits.log_softmax(1)", "logits - logits.detach().logsumexp(1, keepdim=True)"
    )


# --- seq_loss


@accepted("seq_loss")
def flattened_tokens(logits, tokens, pad):
    vocab = logits.shape[-1]
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, vocab), tokens[:, 1:].reshape(-1), ignore_index=pad
    )


@accepted("seq_loss")
def masked_mean(logits, tokens, pad):
    target = tokens[:, 1:]
    nll = -logits[:, :-1].log_softmax(-1).gather(-1, target[..., None])[..., 0]
    mask = (target != pad).to(nll.dtype)
    return (nll * mask).sum() / mask.sum()


@accepted("seq_loss")
def picked_rows(logits, tokens, pad):
    kept = tokens[:, 1:] != pad
    return torch.nn.CrossEntropyLoss()(logits[:, :-1][kept], tokens[:, 1:][kept])


@accepted("seq_loss")
def last_target_is_pad(logits, tokens, pad):
    target = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], pad)], 1)
    return F.cross_entropy(logits.mT, target, ignore_index=pad)


@rejected("seq_loss", by=("test_value", "test_last_position"), says="token t + 1")
def not_shifted(logits, tokens, pad):
    return F.cross_entropy(logits.transpose(1, 2), tokens, ignore_index=pad)


@rejected("seq_loss", by=("test_value", "test_last_position"), says="wrong way")
def shifted_the_wrong_way(logits, tokens, pad):
    return F.cross_entropy(logits[:, 1:].transpose(1, 2), tokens[:, :-1], ignore_index=pad)


@rejected("seq_loss", by=("test_value", "test_last_position"), says="roll")
def rolled(logits, tokens, pad):
    return F.cross_entropy(logits.transpose(1, 2), tokens.roll(-1, 1), ignore_index=pad)


@rejected("seq_loss", by="test_short_and_long", says="mean of the means")
def mean_of_means(logits, tokens, pad):
    target = tokens[:, 1:]
    nll = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), target, ignore_index=pad, reduction="none"
    )
    count = (target != pad).sum(1)
    return (nll.sum(1)[count > 0] / count[count > 0]).mean()


@rejected("seq_loss", by="test_row_of_pad")
def mean_of_means_with_nan(logits, tokens, pad):
    parts = [
        F.cross_entropy(row[:-1], ids[1:], ignore_index=pad)
        for row, ids in zip(logits, tokens, strict=True)
    ]
    return torch.stack(parts).mean()


@rejected("seq_loss", by=("test_short_and_long", "test_gradient"), says="denominator")
def pad_in_the_denominator(logits, tokens, pad):
    return F.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=pad, reduction="none"
    ).mean()


@rejected("seq_loss", by="test_short_and_long", says="like all others")
def pad_not_used(logits, tokens, pad):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:])


@rejected("seq_loss", by="test_pad_is_the_last_token")
def pad_is_always_zero(logits, tokens, pad):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=0)


@rejected("seq_loss", by="test_pad_is_the_last_token")
def pad_is_not_above(logits, tokens, pad):
    target = tokens[:, 1:]
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), target, reduction="none")
    return nll[target > pad].mean() if pad == 0 else nll[target < pad].mean()


@rejected("seq_loss", by=("test_value", "test_arguments"), says="view")
def view_of_the_slice(logits, tokens, pad):
    return F.cross_entropy(
        logits[:, :-1].view(-1, logits.shape[-1]), tokens[:, 1:].view(-1), ignore_index=pad
    )


@rejected("seq_loss", by="test_arguments", says="view")
def view_of_the_logits(logits, tokens, pad):
    flat = logits.view(-1, logits.shape[-1])
    target = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], pad)], 1)
    return F.cross_entropy(flat, target.reshape(-1), ignore_index=pad)


@rejected("seq_loss", by="test_pad_in_front", says="whether the target is pad")
def masked_by_the_input(logits, tokens, pad):
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return nll[tokens[:, :-1] != pad].mean()


@rejected("seq_loss", by="test_row_of_pad")
def the_last_row_is_lost(logits, tokens, pad):
    rows = (tokens != pad).sum(1).clamp(min=1)
    parts = [
        F.cross_entropy(logits[b, : n - 1], tokens[b, 1:n], ignore_index=pad, reduction="mean")
        * (n - 1)
        for b, n in enumerate(rows.tolist())
    ]
    return torch.stack(parts).sum() / (tokens[:, 1:] != pad).sum()


@rejected("seq_loss", by="test_arguments")
def marks_the_padding(logits, tokens, pad):
    tokens[tokens == pad] = -100
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:])


@rejected("seq_loss", by="test_gradient")
def logits_of_pad_are_pulled(logits, tokens, pad):
    right = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=pad)
    return right + (logits - logits.detach()).sum()


# --- kl_and_js


@accepted("kl_and_js")
def kl(p_logits, q_logits):
    """A masked logit instead of a masked difference."""
    p = p_logits.softmax(-1)
    logp = torch.log_softmax(p_logits, -1).masked_fill(p_logits == -math.inf, 0)
    logq = torch.log_softmax(q_logits, -1)
    return torch.sum(p * (logp - logq.masked_fill(p_logits == -math.inf, 0)), dim=-1)


@accepted("kl_and_js")
def kl(p_logits, q_logits):  # noqa: F811
    """With the largest negative number for -inf."""
    logp = p_logits.log_softmax(1).clamp(min=torch.finfo(p_logits.dtype).min)
    return (logp.exp() * (logp - q_logits.log_softmax(1))).sum(1)


@accepted("kl_and_js")
def js(p_logits, q_logits):
    """Entropy of the average, minus the average entropy."""
    logp, logq = (
        torch.where(x == -math.inf, torch.finfo(x.dtype).min, x.log_softmax(1))
        for x in (p_logits, q_logits)
    )
    middle = torch.logsumexp(torch.stack([logp, logq]), 0) - math.log(2)
    inside = (logp.exp() * logp + logq.exp() * logq).sum(1) / 2
    return inside - (middle.exp() * middle).sum(1)


@accepted("kl_and_js")
def js(p_logits, q_logits):  # noqa: F811
    """By kl, with the log of the average as logits."""
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = torch.logaddexp(logp, logq) - math.log(2)
    return 0.5 * (kl(p_logits, middle) + kl(q_logits, middle))


@rejected("kl_and_js", by=("test_kl", "test_direction"), says="exchanged")
def kl(p_logits, q_logits):  # noqa: F811
    return divergence(q_logits.log_softmax(1), p_logits.log_softmax(1))


@rejected("kl_and_js", by="test_shape", says="one for each row")
def kl(p_logits, q_logits):  # noqa: F811
    return F.kl_div(q_logits.log_softmax(1), p_logits.softmax(1), reduction="batchmean")


@rejected("kl_and_js", by="test_kl", says="divided by their number")
def kl(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    return (logp.exp() * torch.where(logp > -math.inf, logp - logq, 0)).mean(1)


@rejected("kl_and_js", by="test_shape")
def kl(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    return (logp.exp() * torch.where(logp > -math.inf, logp - logq, 0)).sum(0)


@rejected("kl_and_js", by="test_impossible_class", says="0 * -inf")
def kl(p_logits, q_logits):  # noqa: F811
    logp = p_logits.log_softmax(1)
    return (logp.exp() * (logp - q_logits.log_softmax(1))).sum(1)


@rejected("kl_and_js", by="test_impossible_gradients", says="comes too late")
def kl(p_logits, q_logits):  # noqa: F811
    logp = p_logits.log_softmax(1)
    p = logp.exp()
    return torch.where(p > 0, p * (logp - q_logits.log_softmax(1)), 0).sum(1)


@rejected("kl_and_js", by="test_impossible_gradients", says="not finite")
def kl(p_logits, q_logits):  # noqa: F811
    return F.kl_div(q_logits.log_softmax(1), p_logits.softmax(1), reduction="none").sum(1)


@rejected("kl_and_js", by="test_impossible_gradients", says="not finite")
def kl(p_logits, q_logits):  # noqa: F811
    p = p_logits.softmax(1)
    return (torch.xlogy(p, p) - p * q_logits.log_softmax(1)).sum(1)


@rejected("kl_and_js", by="test_huge_logits")
def kl(p_logits, q_logits):  # noqa: F811
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    return (p * torch.where(p > 0, p.log() - q.log(), 0)).sum(1)


@rejected("kl_and_js", by="test_kl")
def kl(p_logits, q_logits):  # noqa: F811
    """With an eps inside the logarithm."""
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    return (p * ((p + 1e-6) / (q + 1e-6)).log()).sum(1)


@rejected("kl_and_js", by=("test_kl", "test_zero_and_shift"))
def kl(p_logits, q_logits):  # noqa: F811
    """Logits taken for log-probabilities."""
    p = p_logits.softmax(1)
    return (p * torch.where(p > 0, p_logits - q_logits, 0)).sum(1)


@rejected("kl_and_js", by="test_gradients")
def kl(p_logits, q_logits):  # noqa: F811
    """p as a constant, as a teacher's probabilities are."""
    return divergence(p_logits.log_softmax(1).detach(), q_logits.log_softmax(1))


@rejected("kl_and_js", by=("test_js", "test_bounds"), says="logits were averaged")
def js(p_logits, q_logits):  # noqa: F811
    middle = (p_logits + q_logits) / 2
    return (kl(p_logits, middle) + kl(q_logits, middle)) / 2


@rejected("kl_and_js", by="test_js", says="log-probabilities were averaged")
def js(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = (logp + logq) / 2
    return (divergence(logp, middle) + divergence(logq, middle)) / 2


@rejected("kl_and_js", by=("test_js", "test_bounds"), says="average distribution")
def js(p_logits, q_logits):  # noqa: F811
    return (kl(p_logits, q_logits) + kl(q_logits, p_logits)) / 2


@rejected("kl_and_js", by="test_js", says="sum of the two")
def js(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = torch.logaddexp(logp, logq) - math.log(2)
    return divergence(logp, middle) + divergence(logq, middle)


@rejected("kl_and_js", by="test_js", says="come first")
def js(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = torch.logaddexp(logp, logq) - math.log(2)
    return (divergence(middle, logp) + divergence(middle, logq)) / 2


@rejected("kl_and_js", by="test_bounds", says="js(q, p)")
def js(p_logits, q_logits):  # noqa: F811
    """Only the first half."""
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    return divergence(logp, torch.logaddexp(logp, logq) - math.log(2))


@rejected("kl_and_js", by=("test_zero_and_shift", "test_js"))
def js(p_logits, q_logits):  # noqa: F811
    """The average without its half."""
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    middle = torch.logaddexp(logp, logq)
    return (divergence(logp, middle) + divergence(logq, middle)) / 2


@rejected("kl_and_js", by="test_impossible_js")
def js(p_logits, q_logits):  # noqa: F811
    logp, logq = p_logits.log_softmax(1), q_logits.log_softmax(1)
    p, q = logp.exp(), logq.exp()
    middle = ((p + q) / 2).log()
    return (
        torch.where(p > 0, p * (logp - middle), 0).sum(1)
        + torch.where(q > 0, q * (logq - middle), 0).sum(1)
    ) / 2


@rejected("kl_and_js", by="test_huge_logits")
def js(p_logits, q_logits):  # noqa: F811
    """Through probabilities, whose logs it then takes."""
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    middle = (p + q) / 2
    return (p * (p / middle).log() + q * (q / middle).log()).sum(1) / 2


# --- chunked_lm_loss


class ChunkedLoss(Function):
    """Computes both gradients in forward."""

    @staticmethod
    def forward(ctx, h, w, target, chunk):
        count = (target != -100).sum()
        total = h.new_zeros(())
        grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w)
        for start in range(0, len(h), chunk):
            piece = slice(start, start + chunk)
            labels = target[piece]
            kept = labels != -100
            index = labels.where(kept, 0)[:, None]
            logp = (h[piece] @ w.T).log_softmax(1)
            total -= (logp.gather(1, index)[:, 0] * kept).sum()
            logp.exp_()
            logp.scatter_add_(1, index, logp.new_full(index.shape, -1.0))
            logp.mul_(kept[:, None] / count)
            grad_h[piece] = logp @ w
            grad_w.addmm_(logp.T, h[piece])
        ctx.save_for_backward(grad_h, grad_w)
        return total / count

    @staticmethod
    def backward(ctx, g):
        grad_h, grad_w = ctx.saved_tensors
        return g * grad_h, g * grad_w, None, None


@accepted("chunked_lm_loss")
def with_gradients_in_forward(h, w, target, chunk):
    return ChunkedLoss.apply(h, w, target, chunk)


class RecomputedLoss(Function):
    """Computes the logits of each chunk again in backward."""

    @staticmethod
    def forward(ctx, h, w, target, chunk):
        ctx.save_for_backward(h, w, target)
        ctx.chunk = chunk
        total = h.new_zeros(())
        for part, labels in zip(h.split(chunk), target.split(chunk), strict=True):
            total = total + F.cross_entropy(part @ w.T, labels, reduction="sum")
        return total / (target != -100).sum()

    @staticmethod
    def backward(ctx, g):
        h, w, target = ctx.saved_tensors
        grad_h, grad_w = [], torch.zeros_like(w)
        scale = g / (target != -100).sum()
        for part, labels in zip(h.split(ctx.chunk), target.split(ctx.chunk), strict=True):
            with torch.enable_grad():
                part, weights = part.detach().requires_grad_(), w.detach().requires_grad_()
                loss = F.cross_entropy(part @ weights.T, labels, reduction="sum")
            one, two = torch.autograd.grad(loss, (part, weights), scale)
            grad_h.append(one)
            grad_w += two
        return torch.cat(grad_h), grad_w, None, None


@accepted("chunked_lm_loss")
def recomputed_in_backward(h, w, target, chunk):
    return RecomputedLoss.apply(h, w, target, chunk)


@accepted("chunked_lm_loss")
def checkpointed_slices(h, w, target, chunk):
    def nll(h, w, labels):
        return F.cross_entropy(h @ w.t(), labels, reduction="none").sum()

    total = 0.0
    for start in range(0, h.shape[0], chunk):
        stop = start + chunk
        total = total + checkpoint(nll, h[start:stop], w, target[start:stop], use_reentrant=False)
    return total / target.ne(-100).sum()


@accepted("chunked_lm_loss")
def checkpointed_logsumexp(h, w, target, chunk):
    def losses(h, index):
        z = F.linear(h, w)
        return z.logsumexp(1) - z.gather(1, index[:, None]).squeeze(1)

    kept = target != -100
    index = torch.where(kept, target, 0)
    parts = [
        checkpoint(losses, *piece, use_reentrant=False)
        for piece in zip(h.split(chunk), index.split(chunk), strict=True)
    ]
    return torch.cat(parts)[kept].mean()


@accepted("chunked_lm_loss")
def of_the_kept_tokens(h, w, target, chunk):
    kept = target != -100
    h, target = h[kept], target[kept]
    total = h.new_zeros(())
    for piece, labels in zip(h.split(chunk), target.split(chunk), strict=True):
        total = total + checkpoint(
            lambda a, b: F.cross_entropy(a @ w.T, b, reduction="sum"),
            piece,
            labels,
            use_reentrant=False,
        )
    return total / len(target)


@accepted("chunked_lm_loss")
def reentrant(h, w, target, chunk):
    def nll(h, w, labels):
        return F.cross_entropy(F.linear(h, w), labels, ignore_index=-100, reduction="sum")

    losses = [
        checkpoint(nll, part, w, labels, use_reentrant=True)
        for part, labels in zip(h.split(chunk), target.split(chunk), strict=True)
    ]
    return torch.stack(losses).sum() / (target != -100).sum()


class PiecesOfAutograd(Function):
    """Lets autograd differentiate each chunk while forward is at it."""

    @staticmethod
    def forward(h, w, target, chunk):
        count = (target != -100).sum()
        total, grad_h, grad_w = 0, [], torch.zeros_like(w)
        for part, labels in zip(h.split(chunk), target.split(chunk), strict=True):
            with torch.enable_grad():
                leaf, weights = part.detach().requires_grad_(), w.detach().requires_grad_()
                loss = F.cross_entropy(leaf @ weights.mT, labels, reduction="sum") / count
                one, two = torch.autograd.grad(loss, [leaf, weights])
            total = total + loss.detach()
            grad_h.append(one)
            grad_w.add_(two)
        return total, torch.cat(grad_h), grad_w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx, g, *_):
        grad_h, grad_w = ctx.saved_tensors
        return grad_h * g, grad_w * g, None, None


@accepted("chunked_lm_loss")
def with_autograd_in_forward(h, w, target, chunk):
    return PiecesOfAutograd.apply(h, w, target, chunk)[0]


@accepted("chunked_lm_loss")
def weighted_means(h, w, target, chunk):
    count = target.ne(-100).sum()
    loss = torch.zeros((), dtype=h.dtype, device=h.device)
    for start in range(0, target.numel(), chunk):
        labels = target[start : start + chunk]
        n = labels.ne(-100).sum()
        if n == 0:
            continue
        loss += checkpoint(
            lambda x, y: torch.nn.CrossEntropyLoss()(x @ w.T, y),
            h[start : start + chunk],
            labels,
            use_reentrant=False,
        ) * (n / count)
    return loss


@accepted("chunked_lm_loss")
def checkpoint_by_default(h, w, target, chunk):
    total = 0
    for i in range(0, len(h), chunk):
        total += checkpoint(
            lambda x, w, y: F.cross_entropy(x @ w.T, y, reduction="sum"),
            h[i : i + chunk],
            w,
            target[i : i + chunk],
        )
    return total / (target != -100).sum()


@rejected("chunked_lm_loss", by="test_peak")
def plain_chunks(h, w, target, chunk):
    total = 0
    for part, labels in zip(h.split(chunk), target.split(chunk), strict=True):
        total = total + F.cross_entropy(F.linear(part, w), labels, reduction="sum")
    return total / (target != -100).sum()


@rejected("chunked_lm_loss", by=("test_no_full_logits", "test_peak"))
def the_full_loss(h, w, target, chunk):
    return F.cross_entropy(F.linear(h, w), target)


@rejected("chunked_lm_loss", by=("test_no_full_logits", "test_peak"))
def logits_put_together(h, w, target, chunk):
    return F.cross_entropy(torch.cat([F.linear(part, w) for part in h.split(chunk)]), target)


@rejected("chunked_lm_loss", by=("test_no_full_logits", "test_peak"))
def one_checkpoint_for_all(h, w, target, chunk):
    return checkpoint(
        lambda h, w: F.cross_entropy(F.linear(h, w), target), h, w, use_reentrant=False
    )


@rejected("chunked_lm_loss", by="test_ragged", says="mean of the means")
def mean_of_chunk_means(h, w, target, chunk):
    parts = [
        checkpoint(
            lambda a, b: F.cross_entropy(F.linear(a, w), b), part, labels, use_reentrant=False
        )
        for part, labels in zip(h.split(chunk), target.split(chunk), strict=True)
    ]
    return torch.stack(parts).mean()


@rejected("chunked_lm_loss", by="test_ragged")
def full_chunks_only(reference):
    return reference.replace(
        "    pieces = zip(h.split(chunk), target.split(chunk), strict=True)\n",
        "    whole = len(h) // chunk * chunk\n"
        "    h, target = h[:whole], target[:whole]\n"
        "    pieces = zip(h.split(chunk), target.split(chunk), strict=True)\n",
    )


@rejected("chunked_lm_loss", by="test_ragged")
def chunks_by_reshape(reference):
    return reference.replace(
        "zip(h.split(chunk), target.split(chunk), strict=True)",
        "zip(h.view(-1, chunk, h.shape[1]), target.view(-1, chunk), strict=True)",
    )


@rejected("chunked_lm_loss", by="test_value", says="sum of the losses")
def not_divided(reference):
    return reference.replace("return total / (target != -100).sum()", "return total")


@rejected("chunked_lm_loss", by="test_ignored", says="ignored ones included")
def ignored_in_the_denominator(reference):
    return reference.replace("(target != -100).sum()", "len(target)")


@rejected("chunked_lm_loss", by="test_ignored", says="0 / 0")
def weighted_chunk_means(h, w, target, chunk):
    total = 0
    for part, labels in zip(h.split(chunk), target.split(chunk), strict=True):
        mean = checkpoint(
            lambda a, b: F.cross_entropy(F.linear(a, w), b), part, labels, use_reentrant=False
        )
        total = total + mean * (labels != -100).sum()
    return total / (target != -100).sum()


class WithoutW(ChunkedLoss):
    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None, None


@rejected("chunked_lm_loss", by="test_gradient_of_w", says="w.grad is None")
def forgets_w(h, w, target, chunk):
    return WithoutW.apply(h, w, target, chunk)


class LastChunkOfW(ChunkedLoss):
    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], torch.zeros_like(ctx.saved_tensors[1]), None, None


@rejected("chunked_lm_loss", by=("test_gradient_of_w", "test_finite_differences"), says="is 0")
def zeros_for_w(h, w, target, chunk):
    return LastChunkOfW.apply(h, w, target, chunk)


@rejected("chunked_lm_loss", by=("test_gradient_of_h", "test_finite_differences"))
def detached_h(reference):
    return reference.replace("h.split(chunk)", "h.detach().split(chunk)")


class IgnoresUpstream(ChunkedLoss):
    @staticmethod
    def backward(ctx, g):
        return *ctx.saved_tensors, None, None


@rejected("chunked_lm_loss", by="test_upstream", says="upstream gradient was not used")
def upstream_not_used(h, w, target, chunk):
    return IgnoresUpstream.apply(h, w, target, chunk)


class OnlyOnes(ChunkedLoss):
    """Takes both gradients for the sum, and forgets that forward divides."""

    @staticmethod
    def backward(ctx, g):
        grad_h, grad_w = ctx.saved_tensors
        return g * grad_h * len(grad_h), g * grad_w * len(grad_h), None, None


@rejected("chunked_lm_loss", by=("test_gradient_of_h", "test_gradient_of_w"))
def gradients_of_the_sum(h, w, target, chunk):
    return OnlyOnes.apply(h, w, target, chunk)
