"""The toolkit that the wheel installs as `torch_playground`, byte for byte, and its checklist."""

import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from grader import loading

SOURCE = Path(__file__).parents[1] / "solutions" / "day00"
CHECKLIST = SOURCE / "debug_checklist.md"

INSPECTED = """\
[Inspect] Input Tensor:\x20
   Shape:  (3, 4)
   Dtype:  torch.float32
   Device: cpu
   Grad:   True (Grad Fn: False)
------------------------------
"""


@pytest.fixture(scope="module")
def toolkit():
    """The module, whose import leaves the generators and flags of this process as they were."""
    file = SOURCE / "torch_playground.py"
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    state = torch.get_rng_state()
    before = sys.modules.get("torch_playground")
    text = file.read_text(encoding="utf-8")
    module = loading.load(loading.Source("torch_playground", str(file), text, str(file)))
    yield module
    torch.set_rng_state(state)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags
    if before is None:
        sys.modules.pop("torch_playground", None)
    else:
        sys.modules["torch_playground"] = before


def test_inspect_prints_the_documented_lines_byte_for_byte(toolkit, capsys):
    toolkit.inspect(torch.randn(3, 4, requires_grad=True), "Input Tensor")

    assert capsys.readouterr().out == INSPECTED


def test_time_block_prints_the_documented_line_byte_for_byte(toolkit, capsys, monkeypatch):
    readings = iter([2.0, 2.100452])
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(time, "perf_counter", lambda: next(readings))
        with toolkit.time_block("Matrix Multiplication"):
            pass

    assert capsys.readouterr().out == "[Time] Matrix Multiplication cost: 0.100452 sec\n"


def test_a_star_import_gives_exactly_the_promised_names(toolkit):
    names: dict[str, object] = {}
    exec("from torch_playground import *", names)

    assert {
        "DEVICE",
        "inspect",
        "pick_device",
        "seed_everything",
        "time",
        "time_block",
        "torch",
    } == set(names) - {"__builtins__"}


def test_a_star_import_gives_the_real_modules_and_a_device(toolkit):
    names: dict[str, object] = {}
    exec("from torch_playground import *", names)

    assert names["torch"] is torch
    assert names["time"] is time
    assert isinstance(names["time"], ModuleType)
    assert isinstance(names["DEVICE"], torch.device)


def test_the_ids_of_the_checklist_are_unique():
    ids = re.findall(r"^- \[ \] (\S+)", CHECKLIST.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(ids) > 50
    assert sorted(set(ids)) == sorted(ids)


def test_every_group_of_the_checklist_has_keywords_in_two_languages():
    groups = re.split(r"^## ", CHECKLIST.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    keywords = [re.search(r"^Keywords: (.+)$", group, re.MULTILINE) for group in groups]

    assert all(line and re.search("[a-z]", line[1]) for line in keywords)
    assert all(line and re.search("[\u4e00-\u9fff]", line[1]) for line in keywords)


# What PyTorch 2.13 says, and what people say.
SYMPTOMS = [
    ("SHAPE", "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ("SHAPE", "The size of tensor a (4) must match the size of tensor b (5) at non-singleton dim"),
    ("SHAPE", "Sizes of tensors must match except in dimension 0. Expected size 4 but got size 5"),
    ("SHAPE", "stack expects each tensor to be equal size, but got [3, 4] at entry 0"),
    ("SHAPE", "view size is not compatible with input tensor's size and stride"),
    ("SHAPE", "shape '[5, 3]' is invalid for input of size 12"),
    ("SHAPE", "expected input[2, 5, 8, 8] to have 3 channels, but got 5 channels instead"),
    ("SHAPE", "Expected input batch_size (3) to match target batch_size (2)."),
    ("SHAPE", "Target size (torch.Size([3])) must be the same as input size (torch.Size([3, 1]))"),
    ("SHAPE", "Dimension out of range (expected to be in range of [-2, 1], but got 2)"),
    ("SHAPE", "维度对不上"),
    ("DTYPE", "expected target dtype to be Long or Byte, but got Float"),
    ("DTYPE", "expected scalar type Long but found Float"),
    ("DTYPE", "mat1 and mat2 must have the same dtype, but got Double and Float"),
    ("DTYPE", "result type Float can't be cast to the desired output type Long"),
    ("DTYPE", "mean(): could not infer output dtype. Input dtype must be either a floating point"),
    ("DEVICE", "Expected all tensors to be on the same device, but found at least two devices"),
    ("DEVICE", "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor)"),
    ("DEVICE", "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"),
    ("DEVICE", "Torch not compiled with CUDA enabled"),
    ("ASSERT", "CUDA error: device-side assert triggered"),
    ("ASSERT", "Target 7 is out of bounds."),
    ("ASSERT", "index out of range in self"),
    ("MEM", "CUDA out of memory. Tried to allocate 2.00 GiB."),
    ("MEM", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496"),
    ("MEM", "显存一直涨"),
    ("GRAD", "element 0 of tensors does not require grad and does not have a grad_fn"),
    ("GRAD", "grad can be implicitly created only for scalar outputs"),
    ("GRAD", "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy()"),
    ("GRAD", "optimizer got an empty parameter list"),
    ("INPLACE", "Trying to backward through the graph a second time"),
    ("INPLACE", "a variable needed for gradient has been modified by an inplace operation"),
    ("INPLACE", "a leaf Variable that requires grad is being used in an in-place operation."),
    ("NAN", "Function 'SqrtBackward0' returned nan values in its 0th output."),
    ("NAN", "梯度爆炸"),
    ("FIT", "the loss is not decreasing, accuracy stays at 10 %"),
    ("FIT", "loss 不下降"),
    ("MODE", "Expected more than 1 value per channel when training, got input size [1, 4]"),
    ("MODE", "the same input gives a different output each time: dropout?"),
    ("OVERFIT", "validation loss rises while the training loss falls: overfitting"),
    ("DATA", "Caught ValueError in DataLoader worker process 0."),
    ("DATA", "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists"),
    ("DATA", "num_samples should be a positive integer value, but got num_samples=0"),
    ("SPEED", "training is very slow, GPU utilization 12 %"),
    ("SEED", "two runs with the same random seed give different results"),
    ("SAVE", "Error(s) in loading state_dict for Linear: Missing key(s) in state_dict"),
    ("SAVE", "size mismatch for weight: copying a param with shape [3, 3] from checkpoint"),
]


@pytest.mark.parametrize(("group", "symptom"), SYMPTOMS, ids=[text[:40] for _, text in SYMPTOMS])
def test_the_checklist_as_shipped_answers_a_real_message(toolkit, group, symptom):
    ids = toolkit.find_first(symptom, CHECKLIST)

    assert {group} == {id.partition("-")[0] for id in ids}
