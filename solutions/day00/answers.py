"""Answers to day 00 that its suite must accept or reject."""

import os
import random
import re
import sys
import time
import warnings
from contextlib import ContextDecorator, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch_playground import *

from grader.answers import accepted, rejected

# --- pick_device ------------------------------------------------------------------------------


@accepted("pick_device")
def one_case_after_the_other(prefer: str | None = None) -> torch.device:
    if prefer is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    if prefer.startswith("cuda") and not torch.cuda.is_available():
        warnings.warn("no CUDA here", UserWarning)
        return torch.device("cpu")
    return torch.device(prefer)


@accepted("pick_device")
def looks_for_a_reason_not_to(prefer=None):
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    if prefer is not None:
        wanted = torch.device(prefer)
        if available.get(wanted.type, False):
            return wanted
        warnings.warn(f"{prefer} not available, falling back to cpu", category=UserWarning)
    elif available["cuda"]:
        return torch.device("cuda", 0)
    return torch.device("cpu")


@accepted("pick_device")
def counts_the_devices(prefer=None):
    if prefer is None:
        return torch.device(type="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(prefer)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        warnings.warn(f"{prefer!r} is not available, using the CPU", stacklevel=2)
        device = torch.device("cpu")
    return device


@accepted("pick_device")
def with_names_of_its_own_at_import(reference: str) -> str:
    return reference.replace(
        "from torch import Tensor", "from torch import Tensor\nfrom torch.cuda import is_available"
    ).replace("cuda = torch.cuda.is_available()", "cuda = is_available()")


@rejected("pick_device", by="test_is_a_device", says="torch.device is asked for")
def a_string(prefer=None):
    if prefer is not None and prefer != "cpu" and not torch.cuda.is_available():
        warnings.warn("not available")
        return "cpu"
    return prefer or ("cuda" if torch.cuda.is_available() else "cpu")


@rejected("pick_device", by="test_is_a_device", says="pick_device('cpu')")
def gives_the_preference_back_as_it_came(prefer=None):
    if prefer is not None:
        if torch.device(prefer).type == "cpu" or torch.cuda.is_available():
            return prefer
        warnings.warn("not available")
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@rejected("pick_device", by="test_cuda_when_there", says="out of date")
def decided_at_import(prefer=None, _there=torch.cuda.is_available()):
    device = torch.device(prefer or ("cuda" if _there else "cpu"))
    if device.type == "cuda" and not _there:
        warnings.warn("not available")
        return torch.device("cpu")
    return device


@rejected("pick_device", by="test_cuda_when_there", says="at the time of the call")
@lru_cache
def decided_once(prefer=None):
    if prefer is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if prefer != "cpu" and not torch.cuda.is_available():
        warnings.warn("not available")
        return torch.device("cpu")
    return torch.device(prefer)


@rejected("pick_device", by="test_cuda_when_there")
def always_the_cpu(prefer=None):
    if prefer not in (None, "cpu") and not torch.cuda.is_available():
        warnings.warn("not available")
        return torch.device("cpu")
    return torch.device(prefer or "cpu")


@rejected("pick_device", by="test_a_preference_wins", says="pick_device('cpu')")
def ignores_the_preference(prefer=None):
    if prefer and prefer != "cpu" and not torch.cuda.is_available():
        warnings.warn("not available")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@rejected("pick_device", by="test_a_preference_wins", says="pick_device('cuda:1')")
def loses_the_number_of_the_device(prefer=None):
    kind = torch.device(prefer).type if prefer else None
    if kind == "cuda" and not torch.cuda.is_available():
        warnings.warn("not available")
        kind = "cpu"
    return torch.device(kind or ("cuda" if torch.cuda.is_available() else "cpu"))


@rejected("pick_device", by="test_falls_back_to_the_cpu", says="raises RuntimeError")
def raises_when_it_is_not_there(prefer=None):
    device = torch.device(prefer or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"{prefer} is not available")
    return device


@rejected("pick_device", by=("test_falls_back_to_the_cpu", "test_warns_once"), says="cuda:1")
def compares_with_one_name_only(prefer=None):
    if prefer == "cuda" and not torch.cuda.is_available():
        warnings.warn("not available")
        return torch.device("cpu")
    return torch.device(prefer or ("cuda" if torch.cuda.is_available() else "cpu"))


@rejected("pick_device", by=("test_falls_back_to_the_cpu", "test_warns_once"))
def takes_the_preference_on_trust(prefer=None):
    return torch.device(prefer or ("cuda" if torch.cuda.is_available() else "cpu"))


@rejected("pick_device", by=("test_cpu_otherwise", "test_is_a_device"), says="gives None")
def forgets_to_return_the_cpu(prefer=None):
    if prefer is not None:
        if prefer == "cpu" or torch.cuda.is_available():
            return torch.device(prefer)
        warnings.warn("not available")
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")


@rejected("pick_device", by="test_cpu_otherwise", says="the CPU is always there")
def always_cuda(prefer=None):
    if prefer not in (None, "cpu") and not torch.cuda.is_available():
        warnings.warn("not available")
        return torch.device("cpu")
    return torch.device(prefer or "cuda")


@rejected("pick_device", by="test_warns_once", says="0 UserWarning")
def says_nothing(prefer=None):
    if prefer and (prefer == "cpu" or torch.cuda.is_available()):
        return torch.device(prefer)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@rejected("pick_device", by="test_warns_once", says="0 UserWarning")
def prints_instead_of_warning(prefer=None):
    if prefer and prefer != "cpu" and not torch.cuda.is_available():
        print(f"warning: {prefer} is not available")
        return torch.device("cpu")
    return torch.device(prefer or ("cuda" if torch.cuda.is_available() else "cpu"))


@rejected("pick_device", by="test_warns_once", says="RuntimeWarning")
def another_kind_of_warning(prefer=None):
    if prefer and prefer != "cpu" and not torch.cuda.is_available():
        warnings.warn("not available", RuntimeWarning)
        return torch.device("cpu")
    return torch.device(prefer or ("cuda" if torch.cuda.is_available() else "cpu"))


@rejected("pick_device", by="test_warns_once", says="the CPU is there")
def warns_whenever_there_is_no_cuda(prefer=None):
    if not torch.cuda.is_available():
        warnings.warn("no CUDA, using the CPU")
        return torch.device("cpu")
    return torch.device(prefer or "cuda")


# --- seed_everything --------------------------------------------------------------------------


@accepted("seed_everything")
def each_call_written_out(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@accepted("seed_everything")
def only_with_cuda_for_cuda(seed: int = 277527) -> None:
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    for seed_one in (random.seed, np.random.seed, torch.random.manual_seed):
        seed_one(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@accepted("seed_everything")
def generator_by_generator(seed: int = 277527) -> None:
    random.seed(a=seed)
    np.random.set_state(np.random.RandomState(seed).get_state())
    torch.default_generator.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@accepted("seed_everything")
def as_strict_as_can_be(seed: int = 277527) -> None:
    os.environ["PYTHONHASHSEED"] = str(seed)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected(
    "seed_everything", by=("test_same_seed_same_numbers", "test_works_without_cuda"), says="random"
)
def torch_only(seed: int = 277527) -> None:
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_same_seed_same_numbers", says="numpy")
def without_numpy(seed: int = 277527) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_same_seed_same_numbers", says="numpy")
def a_numpy_generator_that_nobody_uses(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.default_rng(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_same_seed_same_numbers", says="random")
def a_random_object_that_nobody_uses(seed: int = 277527) -> None:
    random.Random(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_cudnn_flags", says="benchmark is True")
def benchmark_stays_on(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = True


@rejected("seed_everything", by="test_cudnn_flags", says="deterministic is False")
def without_the_flags(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@rejected("seed_everything", by="test_default_seed", says="the default is 42")
def another_default(seed: int = 42) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_another_seed_other_numbers", says="the seed is the argument")
def the_same_seed_always(seed: int = 277527) -> None:
    random.seed(277527)
    np.random.seed(277527)
    torch.manual_seed(277527)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_seeds_every_cuda_device", says="never called")
def the_generator_of_the_cpu_only(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_seeds_every_cuda_device", says="never called")
def one_cuda_device_only(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    torch.cuda.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@rejected("seed_everything", by="test_works_without_cuda", says="does not reach all three")
def everything_under_a_condition(seed: int = 277527) -> None:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if torch.cuda.is_available():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)


@rejected("seed_everything", by="test_works_without_cuda", says="raises")
def starts_cuda(seed: int = 277527) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not torch.cuda.is_available():
        raise RuntimeError("needs a GPU")
    torch.cuda.manual_seed_all(seed)


# --- inspect ----------------------------------------------------------------------------------


@accepted("inspect")
def one_print(tensor, name="Tensor"):
    lines = [
        f"[Inspect] {name}: ",
        f"   Shape:  {tuple(tensor.size())}",
        f"   Dtype:  {tensor.dtype!s}",
        f"   Device: {tensor.device!s}",
        f"   Grad:   {tensor.requires_grad} (Grad Fn: {not tensor.is_leaf})",
        30 * "-",
    ]
    print("\n".join(lines))


@accepted("inspect")
def written_to_standard_output(tensor, name="Tensor"):
    rows = {
        "Shape:": tuple(tensor.shape),
        "Dtype:": tensor.dtype,
        "Device:": tensor.device,
        "Grad:": f"{tensor.requires_grad} (Grad Fn: {bool(tensor.grad_fn)})",
    }
    sys.stdout.write(f"[Inspect] {name}: \n")
    for label, value in rows.items():
        sys.stdout.write(f"   {label:<8}{value}\n")
    sys.stdout.write("------------------------------\n")


@accepted("inspect")
def print_with_separators(tensor, name="Tensor"):
    tensor = tensor.detach() if not tensor.requires_grad else tensor
    print("[Inspect] ", name, ": ", sep="")
    print("   Shape: ", tuple(list(tensor.shape)))
    print("   Dtype: ", tensor.dtype)
    print("   Device:", tensor.device)
    print("   Grad:  ", tensor.requires_grad, f"(Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_example", says="torch.Size")
def shows_a_size(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tensor.shape}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_example", says="one space follows")
def no_space_at_the_end(tensor, name="Tensor"):
    print(f"[Inspect] {name}:")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_example", says="line 1 ends with 2 spaces")
def two_spaces_at_the_end(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ", "")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_example", says="whether there is one")
def shows_the_grad_fn_itself(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn})")
    print("-" * 30)


@rejected("inspect", by="test_result_of_an_operation", says="Grad Fn is False")
def mistakes_grad_for_grad_fn(tensor, name="Tensor"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grad = tensor.grad
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {grad is not None})")
    print("-" * 30)


@rejected("inspect", by="test_example", says="32 hyphens")
def a_longer_rule(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 32)


@rejected("inspect", by="test_example", says="other spaces")
def values_behind_one_space(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape: {tuple(tensor.shape)}")
    print(f"   Dtype: {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad: {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by=("test_example", "test_six_lines"), says="nothing to standard output")
def returns_the_text(tensor, name="Tensor"):
    return (
        f"[Inspect] {name}: \n   Shape:  {tuple(tensor.shape)}\n   Dtype:  {tensor.dtype}\n"
        f"   Device: {tensor.device}\n"
        f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})\n" + "-" * 30
    )


@rejected("inspect", by=("test_example", "test_six_lines"), says="standard output")
def prints_to_standard_error(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ", file=sys.stderr)
    print(f"   Shape:  {tuple(tensor.shape)}", file=sys.stderr)
    print(f"   Dtype:  {tensor.dtype}", file=sys.stderr)
    print(f"   Device: {tensor.device}", file=sys.stderr)
    print(
        f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})",
        file=sys.stderr,
    )
    print("-" * 30, file=sys.stderr)


@rejected("inspect", by=("test_result_of_an_operation", "test_no_gradient"), says="requires_grad")
def mistakes_a_leaf_for_requires_grad(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.is_leaf} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_no_axis", says="shows (1,) as the shape")
def a_number_has_one_axis(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape) or (1,)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_one_axis", says="shows (3) as the shape")
def a_tuple_by_hand(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  ({', '.join(map(str, tensor.shape))})")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_empty", says="1 line;")
def has_no_patience_for_empty_tensors(tensor, name="Tensor"):
    if tensor.numel() == 0:
        print(f"[Inspect] {name}: ")
        return
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_other_dtypes")
def asks_numpy_for_the_dtype(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  torch.{tensor.detach().cpu().numpy().dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_other_dtypes", says="float32 as the dtype")
def asks_for_the_default_dtype(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype if tensor.is_floating_point() else tensor.float().dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_meta_device", says="cpu as the device")
def knows_two_devices(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {f'cuda:{tensor.get_device()}' if tensor.is_cuda else 'cpu'}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_default_name", says="line 1")
def another_default_name(tensor, name="x"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


@rejected("inspect", by="test_leaves_the_tensor_alone", says="shape")
def squeezes_it(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)
    tensor.squeeze_()


@rejected("inspect", by="test_leaves_the_tensor_alone", says="requires_grad")
def switches_the_gradient_off(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)
    tensor.detach_()


@rejected("inspect", by=("test_prints_no_value", "test_six_lines"), says="8191")
def prints_the_values_too(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print(tensor)
    print("-" * 30)


@rejected("inspect", by=("test_six_lines", "test_example"), says="7 lines")
def an_empty_line_at_the_end(tensor, name="Tensor"):
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30 + "\n")


@rejected("inspect", by="test_runs_no_operation")
def looks_for_nan_in_passing(tensor, name="Tensor"):
    if tensor.is_floating_point() and not tensor.is_meta and tensor.isnan().any():
        warnings.warn("there is a nan")
    print(f"[Inspect] {name}: ")
    print(f"   Shape:  {tuple(tensor.shape)}")
    print(f"   Dtype:  {tensor.dtype}")
    print(f"   Device: {tensor.device}")
    print(f"   Grad:   {tensor.requires_grad} (Grad Fn: {tensor.grad_fn is not None})")
    print("-" * 30)


# --- time_block -------------------------------------------------------------------------------


@accepted("time_block")
class AsAClass:
    def __init__(self, label: str = "Block") -> None:
        self.label = label

    def __enter__(self):
        self._wait()
        self.start = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        self._wait()
        cost = time.perf_counter() - self.start
        print(f"[Time] {self.label} cost: {cost:.6f} sec")

    @staticmethod
    def _wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()


@accepted("time_block")
class AsADecoratorToo(ContextDecorator):
    def __init__(self, label="Block"):
        self.label = label

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.start = time.perf_counter_ns()

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = (time.perf_counter_ns() - self.start) / 1e9
        print(f"[Time] {self.label} cost: {self.seconds:.6f} sec")
        return False


@accepted("time_block")
@contextmanager
def raises_again(label="Block"):
    def now():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    try:
        yield
    except BaseException:
        print("[Time] {} cost: {:.6f} sec".format(label, now() - start))
        raise
    print("[Time] %s cost: %.6f sec" % (label, now() - start))


@accepted("time_block")
def with_its_own_name_for_the_clock(reference: str) -> str:
    return reference.replace(
        "import time\n",
        "import time\nfrom time import perf_counter\nfrom torch.cuda import synchronize\n",
    ).replace("time.perf_counter()", "perf_counter()")


@accepted("time_block")
def asks_the_global_device(reference: str) -> str:
    return (
        reference.replace("    if torch.cuda.is_available():\n        torch", "    wait_()\n    #")
        .replace(
            "        if torch.cuda.is_available():\n            torch", "        wait_()\n    #"
        )
        .replace(
            "@contextmanager\n",
            'def wait_():\n    if DEVICE.type == "cuda":\n        torch.cuda.synchronize()\n\n\n'
            "@contextmanager\n",
        )
    )


@rejected("time_block", by="test_prints_when_the_body_raises", says="nothing was printed")
@contextmanager
def no_finally(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_reads_perf_counter", says="never read")
@contextmanager
def the_time_of_day(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.time()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.time() - start:.6f} sec")


@rejected("time_block", by="test_reads_perf_counter", says="never read")
@contextmanager
def the_monotonic_clock(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.monotonic()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.monotonic() - start:.6f} sec")


@rejected("time_block", by=("test_measures_a_sleep", "test_reads_perf_counter"), says="no CPU")
@contextmanager
def the_time_of_the_cpu(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.process_time()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.process_time() - start:.6f} sec")


@rejected("time_block", by=("test_measures_a_sleep", "test_reads_perf_counter"), says="seconds")
@contextmanager
def milliseconds(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {1000 * (time.perf_counter() - start):.6f} sec")


@rejected("time_block", by="test_lets_the_exception_through", says="swallowed")
class Swallows:
    def __init__(self, label="Block"):
        self.label = label

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.start = time.perf_counter()

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {self.label} cost: {time.perf_counter() - self.start:.6f} sec")
        return True


@rejected("time_block", by="test_lets_the_exception_through", says="swallowed")
@contextmanager
def returns_from_the_finally(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    except Exception as error:
        print(f"failed: {error}", file=sys.stderr)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_lets_the_exception_through", says="came out")
@contextmanager
def another_exception(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{label} failed") from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_line", says="4 decimals")
@contextmanager
def four_decimals(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.4f} sec")


@rejected("time_block", by="test_line", says="looks like")
@contextmanager
def another_unit_in_the_text(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} s")


@rejected("time_block", by="test_line", says="2 lines")
@contextmanager
def prints_at_both_ends(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    print(f"[Time] {label} cost: {0:.6f} sec")
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_default_label", says="Block")
@contextmanager
def another_default_label(label="block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_nested_blocks", says="overwrote")
class OneStartForAll:
    start = 0.0

    def __init__(self, label="Block"):
        self.label = label

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        type(self).start = time.perf_counter()

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {self.label} cost: {time.perf_counter() - self.start:.6f} sec")


@rejected("time_block", by="test_waits_for_earlier_kernels", says="first reading")
@contextmanager
def waits_at_the_end_only(label="Block"):
    start = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_waits_for_the_kernels_of_the_body", says="before the kernel")
@contextmanager
def waits_at_the_start_only(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_waits_for_the_kernels_of_the_body", says="never called")
@contextmanager
def never_waits(label="Block"):
    start = time.perf_counter()
    try:
        yield
    finally:
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_waits_for_the_kernels_of_the_body", says="before the kernel")
@contextmanager
def waits_after_the_reading(label="Block"):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        cost = time.perf_counter() - start
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {cost:.6f} sec")


@rejected("time_block", by="test_waits_for_earlier_kernels", says="first reading")
@contextmanager
def waits_after_the_first_reading(label="Block"):
    start = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


@rejected("time_block", by="test_no_waiting_without_cuda", says="without CUDA")
@contextmanager
def waits_always(label="Block"):
    torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield
    finally:
        torch.cuda.synchronize()
        print(f"[Time] {label} cost: {time.perf_counter() - start:.6f} sec")


# --- what the import does ---------------------------------------------------------------------


@accepted("import_side_effects")
def one_line_is_printed(reference: str) -> str:
    return reference.replace(
        "DEVICE = pick_device()\n", 'DEVICE = pick_device()\nprint(f"Using {DEVICE}")\n'
    )


@accepted("import_side_effects")
def the_seed_before_the_device(reference: str) -> str:
    return reference.replace(
        "DEVICE = pick_device()\nseed_everything()\n",
        "SEED = 277527\nseed_everything(SEED)\nDEVICE: torch.device = pick_device(None)\n",
    )


@accepted("import_side_effects")
def gives_more_of_its_own(reference: str) -> str:
    return reference.replace(
        '"torch"]', '"torch"] + ["find_first", "SEED", "describe", "TIMES"]\nTIMES = []'
    ).replace(
        "seed_everything()\n###",
        "seed_everything()\nSEED = 277527\ndescribe = lambda: DEVICE.type\n###",
    )


@accepted("import_side_effects")
def without_all_but_private_imports(reference: str) -> str:
    for old, new in (
        ("import random\n", "import random as _random\n"),
        ("import re\n", "import re as _re\n"),
        ("import warnings\n", "import warnings as _warnings\n"),
        ("import Iterator", "import Iterator as _Iterator"),
        ("Iterator[None]", "_Iterator[None]"),
        ("import contextmanager", "import contextmanager as _contextmanager"),
        ("@contextmanager", "@_contextmanager"),
        ("import Path", "import Path as _Path"),
        ("str | Path", "str | _Path"),
        (" Path(", " _Path("),
        ("import numpy as np", "import numpy as _np"),
        (" np.random", " _np.random"),
        ("import Tensor", "import Tensor as _Tensor"),
        (": Tensor", ": _Tensor"),
        ("    random.seed", "    _random.seed"),
        ("warnings.warn(", "_warnings.warn("),
        ("re.split", "_re.split"),
        ("re.search", "_re.search"),
        ("re.findall", "_re.findall"),
        ("re.MULTILINE", "_re.MULTILINE"),
    ):
        reference = reference.replace(old, new)
    return re.sub(r"__all__ = .*\n", "", reference)


@rejected("import_side_effects", by="test_device", says="is the str 'cpu'")
def device_is_a_string(reference: str) -> str:
    return reference.replace("DEVICE = pick_device()", "DEVICE = str(pick_device())")


@rejected("import_side_effects", by="test_device", says="is the function")
def device_is_the_function(reference: str) -> str:
    return reference.replace("DEVICE = pick_device()", "DEVICE = pick_device")


@rejected("import_side_effects", by=("test_device", "test_promised_names"), says="no global DEVICE")
def device_is_never_set(reference: str) -> str:
    return reference.replace("DEVICE = pick_device()", "pick_device()")


@rejected("import_side_effects", by="test_same_numbers_in_every_process", says="does not seed")
def seeds_as_a_script_only(reference: str) -> str:
    return reference.replace(
        "\nseed_everything()\n", '\nif __name__ == "__main__":\n    seed_everything()\n'
    )


@rejected("import_side_effects", by="test_same_numbers_in_every_process", says="does not seed")
def seeds_torch_alone(reference: str) -> str:
    return reference.replace("\nseed_everything()\n", "\ntorch.manual_seed(277527)\n")


@rejected("import_side_effects", by="test_same_numbers_in_every_process")
def seeds_from_the_clock(reference: str) -> str:
    return reference.replace("\nseed_everything()\n", "\nseed_everything(int(time.time()))\n")


@rejected(
    "import_side_effects",
    by="test_same_numbers_in_every_process",
    says="than after seed_everything(277527)",
)
def seeds_with_zero(reference: str) -> str:
    return reference.replace("\nseed_everything()\n", "\nseed_everything(0)\n")


@rejected("import_side_effects", by="test_promised_names", says="no DEVICE; __all__")
def all_without_the_device(reference: str) -> str:
    return reference.replace('["DEVICE", ', "[")


@rejected("import_side_effects", by="test_promised_names", says="no torch, time")
def all_without_the_modules(reference: str) -> str:
    return reference.replace('"time", ', "").replace(', "torch"]', "]")


@rejected("import_side_effects", by="test_promised_names", says="DEVISE")
def all_with_a_typing_error(reference: str) -> str:
    return reference.replace('["DEVICE", ', '["DEVICE", "DEVISE", ')


@rejected("import_side_effects", by="test_promised_names", says="time is not the module")
def time_is_a_function(reference: str) -> str:
    return reference.replace("DEVICE = pick_device()", "DEVICE = pick_device()\ntime = time.time")


@rejected("import_side_effects", by="test_no_stranger_comes_along", says="np")
def no_all(reference: str) -> str:
    return re.sub(r"__all__ = .*\n", "", reference)


@rejected("import_side_effects", by="test_no_stranger_comes_along", says="contextmanager")
def all_that_there_is(reference: str) -> str:
    return re.sub(r"__all__ = .*\n", "__all__ = [name for name in globals()]\n", reference)


@rejected("import_side_effects", by="test_prints_one_line_at_most", says="3 lines")
def talks_at_import(reference: str) -> str:
    return reference.replace(
        "DEVICE = pick_device()\n",
        "DEVICE = pick_device()\n"
        'print(f"Device: {DEVICE}")\nprint(f"torch: {torch.__version__}")\nprint("Seed: 277527")\n',
    )


# --- find_first -------------------------------------------------------------------------------


@accepted("find_first")
def line_by_line(symptom, path="debug_checklist.md"):
    groups = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.strip()
            if line.startswith("## "):
                groups.append({"keywords": [], "ids": []})
            elif not groups:
                continue
            elif line.startswith("Keywords:"):
                groups[-1]["keywords"] = [k.strip().lower() for k in line[9:].split(",")]
            elif line.startswith(("- [ ] ", "- [x] ")):
                groups[-1]["ids"].append(line[6:].split()[0])
    best, best_count = [], 0
    for group in groups:
        count = len([k for k in group["keywords"] if k and k in symptom.lower()])
        if count > best_count:
            best, best_count = group["ids"], count
    return best


@accepted("find_first")
def the_best_of_a_list(symptom, path="debug_checklist.md"):
    @lru_cache(None)
    def count(group):
        (line,) = re.findall(r"^Keywords:(.*)$", group, re.M) or [""]
        words = filter(None, map(str.strip, line.split(",")))
        return sum(1 for word in words if word.casefold() in symptom.casefold())

    groups = Path(path).read_text(encoding="utf-8").split("\n## ")[1:]
    if Path(path).read_text(encoding="utf-8").startswith("## "):
        groups.insert(0, Path(path).read_text(encoding="utf-8").split("\n## ")[0])
    best = max(groups, key=count, default="")
    return re.findall(r"^- \[.\] ([^\s]+)", best, re.M) if best and count(best) else []


@accepted("find_first")
def sorted_by_matches(symptom, path="debug_checklist.md"):
    groups: list[tuple[list[str], list[str]]] = []
    for line in Path(path).read_text("utf-8").splitlines():
        match line.split(maxsplit=1):
            case ["##", _]:
                groups.append(([], []))
            case ["Keywords:", words] if groups:
                groups[-1][0].extend(w.strip() for w in words.split(","))
            case ["-", rest] if groups and rest[:4] in ("[ ] ", "[x] "):
                groups[-1][1].append(rest[4:].split()[0])
    text = symptom.upper()
    scored = [(sum(bool(w) and w.upper() in text for w in words), ids) for words, ids in groups]
    scored.sort(key=lambda pair: -pair[0])
    return scored[0][1] if scored and scored[0][0] else []


@rejected("find_first", by=("test_reads_the_file_at_path", "test_messages_of_pytorch"))
def a_dictionary_in_the_code(symptom, path="debug_checklist.md"):
    table = {
        "shape": ["SHAPE-1", "SHAPE-2"],
        "dtype": ["DTYPE-1", "DTYPE-2"],
        "out of memory": ["MEM-1", "MEM-2"],
        "显存": ["MEM-1", "MEM-2"],
        "nan": ["NAN-1", "NAN-2", "NAN-3"],
    }
    return next((ids for word, ids in table.items() if word in symptom.lower()), [])


@rejected("find_first", by="test_reads_the_file_at_path", says="no item")
def the_path_is_ignored(symptom, path="debug_checklist.md"):
    path = Path("debug_checklist.md")
    most, first = 0, []
    for group in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by=("test_default_path", "test_messages_of_pytorch"))
def needs_a_path(symptom, path="checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[2:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by=("test_messages_of_pytorch", "test_a_tie_goes_to_the_earlier_group"))
def the_last_group_that_matches(symptom, path="debug_checklist.md"):
    first = []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        if any(w in symptom.lower() for w in words - {""}):
            first = re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_a_tie_goes_to_the_earlier_group", says="'Late'")
def a_tie_goes_to_the_later_group(symptom, path="debug_checklist.md"):
    most, first = 1, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count >= most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_most_matches_win", says="'One'")
def the_first_group_that_matches(symptom, path="debug_checklist.md"):
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        if any(w in symptom.lower() for w in words - {""}):
            return re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return []


@rejected("find_first", by="test_most_matches_win")
def counts_how_often_a_keyword_occurs(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(symptom.lower().count(w) for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_most_matches_win", says="gives ['TWO-1', 'TWO-2', 'THREE-1'")
def every_group_that_matches(symptom, path="debug_checklist.md"):
    found = []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        found.append((-count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)))
    return [id for count, ids in sorted(found, key=lambda pair: pair[0]) if count for id in ids]


@rejected("find_first", by="test_ticked_items_count", says="1 of the group's 3")
def skips_what_is_ticked(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[ \] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_ticked_items_count", says="another order")
def open_items_first(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            boxes = re.findall(r"^- \[([ x])\] (\S+)", group, re.MULTILINE)
            most, first = count, [id for _, id in sorted(boxes, key=lambda box: box[0])]
    return first


@rejected("find_first", by=("test_unknown_symptom", "test_messages_of_pytorch"))
def single_letters_match(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        count = sum(letter in symptom.lower() for letter in line[1].lower()) if line else 0
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_unknown_symptom", says="'Shapes'")
def the_first_group_where_nothing_matches(symptom, path="debug_checklist.md"):
    most, first = -1, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_unknown_symptom", says="NoneType")
def nothing_where_nothing_matches(symptom, path="debug_checklist.md"):
    most, first = 0, None
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_ignores_case", says="same case")
def lowers_the_symptom_only(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_ignores_case", says="same case")
def compares_as_it_stands(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].split(",")} if line else set()
        count = sum(w in symptom for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_anywhere_in_the_symptom", says="inside a word")
def whole_words_only(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        found = (re.search(rf"\b{re.escape(w)}\b", symptom.lower()) for w in words - {""})
        count = sum(match is not None for match in found)
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_messages_of_pytorch")
def keywords_keep_their_spaces(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = set(line[1].lower().split(",")) if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_an_empty_keyword_matches_nothing", says="empty text occurs")
def the_empty_keyword_matches(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = [w.strip() for w in line[1].lower().split(",")] if line else []
        count = sum(w in symptom.lower() for w in words)
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by="test_other_lines_say_nothing")
def the_heading_counts_too(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        text = group.partition("\n")[0].replace(" ", ",") + "," + (line[1] if line else "")
        words = {w.strip() for w in text.lower().split(",")}
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first


@rejected("find_first", by=("test_other_lines_say_nothing", "test_messages_of_pytorch"))
def anything_that_looks_like_an_id(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"[A-Z]+-\d+", group)
    return first


@rejected("find_first", by="test_reads_it_on_every_call", says="changed after the first call")
@lru_cache
def reads_the_file_once(symptom, path="debug_checklist.md"):
    most, first = 0, []
    for group in re.split(r"^## ", Path(path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        line = re.search(r"^Keywords:(.*)", group, re.MULTILINE)
        words = {w.strip() for w in line[1].lower().split(",")} if line else set()
        count = sum(w in symptom.lower() for w in words - {""})
        if count > most:
            most, first = count, re.findall(r"^- \[[ x]\] (\S+)", group, re.MULTILINE)
    return first
