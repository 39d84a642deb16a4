"""Where a model looks is found however its attention is written, and never costs a check."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.testing import attention_of, show_attention
from grader.testing._record import begin

SEQ, HEADS, DIM = 5, 2, 8
IDS = torch.tensor([[3, 1, 4, 1, 5]])


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(-1), 0.1, training=False) @ v


def by_exp(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).exp() * mask
    return (weights / weights.sum(-1, keepdim=True)) @ v


def by_flag(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=len(mask) > 1)


def by_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def by_float_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added)


class Model(nn.Module):
    """Embedding, one attention, head."""

    def __init__(self, attend=by_hand) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.tok, self.qkv = nn.Embedding(9, DIM), nn.Linear(DIM, 3 * DIM)
        nn.init.normal_(self.qkv.weight)
        self.head, self.attend = nn.Linear(DIM, 9), attend
        self.keys: list[Tensor] = []

    def parts(self, ids: Tensor) -> list[Tensor]:
        qkv = self.qkv(self.tok(ids)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return list(qkv)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.parts(ids)
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        return self.head(self.attend(q, k, v, mask).transpose(1, 2).flatten(2)).softmax(-1)


def expected(ids: Tensor = IDS) -> Tensor:
    """The weights by their definition, (heads, seq, seq)."""
    with torch.no_grad():
        q, k, _ = Model().parts(ids)
        scores = (q @ k.mT / math.sqrt(DIM // HEADS))[0].double()
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.parametrize("attend", [by_hand, by_exp, by_flag, by_mask, by_float_mask])
def test_attention_is_found_however_it_is_written(attend):
    found = attention_of(Model(attend), IDS)

    assert found.ids == (3, 1, 4, 1, 5)
    assert len(found.layers) == 1
    torch.testing.assert_close(found.layers[0], expected(), rtol=1e-4, atol=1e-5)
    assert found.result.shape == (1, SEQ, 9)


def test_attention_of_torch_s_own_layer_is_found():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(DIM, HEADS, batch_first=True).eval()
    found = attention_of(layer, torch.randn(1, SEQ, DIM))

    assert [tuple(weights.shape) for weights in found.layers] == [(HEADS, SEQ, SEQ)]


def test_attention_is_found_in_inference_mode():
    model = Model(by_flag)

    def run() -> Tensor:
        with torch.inference_mode():
            return model(IDS)

    torch.testing.assert_close(attention_of(run).layers[0], expected(), rtol=1e-4, atol=1e-5)


def test_a_text_written_token_by_token_gives_one_map():
    model = Model()

    def write() -> None:
        for end in range(2, SEQ + 1):
            model(IDS[:, :end])

    found = attention_of(write)

    assert found.ids == (3, 1, 4, 1, 5)
    torch.testing.assert_close(found.layers[0], expected(), rtol=1e-4, atol=1e-5)


def test_a_text_written_with_a_cache_gives_one_map():
    model = Model()

    def write() -> None:
        keys, values = [], []
        for at in range(SEQ - 2):
            # Three tokens at first, then one at a time.
            q, k, v = model.parts(IDS[:, :3] if at == 0 else IDS[:, at + 2 : at + 3])
            keys.append(k)
            values.append(v)
            k, v = torch.cat(keys, 2), torch.cat(values, 2)
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
            by_hand(q, k, v, mask.tril(k.shape[2] - q.shape[2]))

    found = attention_of(write)

    assert found.ids == (3, 1, 4, 1, 5)
    torch.testing.assert_close(found.layers[0], expected(), rtol=1e-4, atol=1e-5)


def test_a_model_without_attention_has_none():
    model = nn.Sequential(nn.Embedding(9, DIM), nn.ReLU(), nn.Linear(DIM, 9), nn.Softmax(-1))
    found = attention_of(model, IDS)

    assert found.layers == ()
    assert found.result is not None


def test_what_raises_gives_nothing():
    found = attention_of(Model(), torch.tensor([[99]]))

    assert found.layers == found.ids == ()
    assert found.result is None


def test_weights_that_are_no_numbers_are_no_attention():
    model = Model()
    nn.init.constant_(model.qkv.weight, math.nan)

    assert attention_of(model, IDS).layers == ()


def test_looking_leaves_the_generator_the_modes_and_the_fast_path_as_they_were():
    model = nn.Sequential(Model(), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    state = torch.get_rng_state()
    attention_of(lambda: torch.randn(3))
    attention_of(model, IDS)

    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in model] == [True, False]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_picture_has_a_map_a_head_with_the_tokens_beside_it():
    record = begin()
    show_attention(attention_of(Model(), IDS), "a\nb c", "t", "c")
    [picture] = record.pictures

    assert [one["label"] for one in picture["data"]["maps"]] == [
        "layer 0, head 0",
        "layer 0, head 1",
    ]
    assert picture["data"]["row_labels"] == ["a", "↵", "b", "␣", "c"]


def test_no_attention_is_no_picture():
    record = begin()
    show_attention(attention_of(nn.Embedding(9, 3), IDS), "abcde", "t", "c")
    show_attention(attention_of(Model(), IDS), "another length", "t", "c")

    assert record.pictures == []
