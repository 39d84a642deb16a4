"""Where a model looks: the weights of attention that a call computes, however it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grader.testing._operators import DispatchMode, name_of, tensors_of
from grader.testing._record import picture

_ones, _no_grad, _equal = torch.ones, torch.no_grad, torch.equal
_bool, _float64, _zeros = torch.bool, torch.float64, torch.zeros
_Module = torch.nn.Module
_get_state, _set_state = torch.get_rng_state, torch.set_rng_state
_get_fastpath = torch.backends.mha.get_fastpath_enabled
_set_fastpath = torch.backends.mha.set_fastpath_enabled

_SIGNS = {" ": "␣", "\n": "↵"}

MOST_TOKENS = 64
"""Longer texts make no picture that can be read."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What a call looked at while it read one text.

    Attributes:
        layers: the weights of each attention in order, float64 (heads, seq, seq); a row is a
            query, and sums to 1. Empty where none were found.
        ids: the tokens that were embedded, (seq,); empty where none were.
        result: what the call returned, None if it raised.
    """

    layers: tuple[Tensor, ...] = ()
    ids: tuple[int, ...] = ()
    result: Any = None


def attention_of(fn: Callable[..., Any], *args: Any) -> Attention:
    """Call `fn`, which runs a model on one text, and find where it looks; for pictures alone.

    Attention is found by what it is: an operator's result with a row of weights for each token
    that sum to 1 over the tokens, or the arguments of PyTorch's fused attention. A text that is
    written token by token, with a cache or without one, comes out as one map a layer. Nothing
    raises: what goes wrong gives an empty `Attention`. The global generator of torch and the
    modes of modules stay as they were.

    Args:
        fn: called once without gradients; a module is called in eval mode.
    """
    state, is_fast = _get_state(), _get_fastpath()
    modes = [(part, part.training) for part in fn.modules()] if isinstance(fn, _Module) else []
    watch = _Watch()
    try:
        for part, _ in modes:
            part.training = False
        _set_fastpath(False)  # one operator for a whole layer would hide its attention
        with _no_grad(), watch:
            result = fn(*args)
        return Attention(tuple(watch.layers()), tuple(watch.ids()), result)
    except Exception:
        return Attention()
    finally:
        for part, mode in modes:
            part.training = mode
        _set_fastpath(is_fast)
        _set_state(state)


def show_attention(
    found: Attention, tokens: Sequence[str], title: str, caption: str, heads: int = 0
) -> None:
    """Attach a map a head to the running check, or nothing where there is nothing to show.

    Args:
        tokens: the text, a word or sign each; a space is shown as one.
        title: what is drawn, in a few words.
        caption: a sentence with the same fact.
        heads: of each layer, for a model that computes them one after the other; 0: as found.
    """
    size = len(tokens)
    layers = [layer for layer in found.layers if layer.shape[-2:] == (size, size)]
    maps = [(i, h, weights) for i, layer in enumerate(layers) for h, weights in enumerate(layer)]
    if heads and all(len(layer) == 1 for layer in layers) and len(maps) % heads == 0:
        maps = [(k // heads, k % heads, weights) for k, (_, _, weights) in enumerate(maps)]
    if not maps:
        return
    signs = [_SIGNS.get(token, token) for token in tokens]
    picture(
        "heatmap",
        title,
        caption,
        maps=[
            {
                "label": f"layer {layer}, head {head}",
                "values": [[round(weight, 3) for weight in row] for row in weights.tolist()],
                "marked": [],
            }
            for layer, head, weights in maps
        ],
        row_labels=signs,
        column_labels=signs,
        row_axis="query",
        column_axis="key",
    )


@dataclass(slots=True)
class _Pass:
    """One forward pass: from an embedding of tokens to the next."""

    ids: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # (heads, queries, keys)


class _Watch(DispatchMode):
    """Notes the tokens that are embedded and the weights over them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes = [_Pass()]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = name_of(func)
        if name == "embedding" and args[1].ndim == 2 and len(args[1]) == 1:
            self._begin(args[1][0].tolist())
        elif "scaled_dot_product" in name:
            self._add(_fused(func, args, kwargs or {}))
        else:
            for tensor in tensors_of(result):
                if _is_attention(tensor):
                    self._add(tensor)
        return result

    def _begin(self, ids: list[int]) -> None:
        if self.passes[-1].maps:
            self.passes.append(_Pass())
        if len(ids) <= MOST_TOKENS and not self.passes[-1].ids:
            self.passes[-1].ids = ids

    def _add(self, weights: Tensor) -> None:
        found = weights.detach().to(_float64).reshape(-1, *weights.shape[-2:])
        maps = self.passes[-1].maps
        # Copies, dropout that is off and other layouts repeat what was there.
        if not (maps and maps[-1].shape == found.shape and _equal(maps[-1], found)):
            maps.append(found.clone())

    def _read(self) -> list[_Pass]:
        """The passes that belong to the last text: as many maps each, and ever more keys."""
        found = [one for one in self.passes if one.maps]
        return [one for one in found if len(one.maps) == len(found[-1].maps)]

    def layers(self) -> list[Tensor]:
        """One map a layer, its rows from the pass that computed them last."""
        passes = self._read()
        whole = []
        for i in range(len(passes[-1].maps) if passes else 0):
            maps = [one.maps[i] for one in passes if len(one.maps[i]) == len(passes[-1].maps[i])]
            size = max(one.shape[-1] for one in maps)
            weights = _zeros(len(maps[0]), size, size, dtype=_float64)
            for one in maps:
                queries, keys = one.shape[-2:]
                weights[:, keys - queries : keys] = 0
                weights[:, keys - queries : keys, :keys] = one
            whole.append(weights)
        return whole

    def ids(self) -> list[int]:
        """The tokens of the text."""
        found: list[int] = []
        for one in self._read():
            keys = one.maps[0].shape[-1]
            found[keys - len(one.ids) :] = one.ids
        return found


def _is_attention(tensor: Tensor) -> bool:
    """Whether the last two axes are a row of weights over the tokens for each token."""
    if tensor.ndim < 2 or not tensor.is_floating_point() or not tensor.numel():
        return False
    queries, keys = tensor.shape[-2:]
    if not (1 <= queries <= keys <= MOST_TOKENS) or keys < 2 or tensor.numel() > 2**20:
        return False
    heads = tensor.numel() // (queries * keys)
    if heads > 32 or (tensor.ndim > 3 and tensor.shape[0] != 1):
        return False
    # One row alone may be the probabilities of the next token; heads tell it from those.
    if queries != keys and not (queries == 1 and heads > 1):
        return False
    rows = tensor.sum(-1)
    return bool((tensor >= 0).all()) and bool(((rows - 1).abs() < 1e-3).all())


def _fused(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The weights of PyTorch's fused attention, from its arguments."""
    names = (argument.name for argument in func._schema.arguments)
    given = dict(zip(names, args, strict=False)) | kwargs
    query, key = given["query"].to(_float64), given["key"].to(_float64)
    scale, mask = given.get("scale"), given.get("attn_mask")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == _bool else scores + mask
    elif given.get("is_causal"):
        seen = _ones(scores.shape[-2:], dtype=_bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    weights: Tensor = scores.softmax(-1)
    return weights
