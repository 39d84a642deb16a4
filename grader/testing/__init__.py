"""What a suite may say about a submission; sorted by what each function looks at.

Every function raises `CheckFailed`, an `AssertionError` with a sentence for the learner, when
the submission is wrong, and anything else only when the suite is.
"""

from grader.testing._attention import Attention, attention_of, show_attention
from grader.testing._failure import CheckFailed, expect, fail, smallest
from grader.testing._forbid import forbid, forbid_torch, names_used
from grader.testing._gradients import (
    assert_gradients,
    assert_gradients_close,
    assert_independent,
)
from grader.testing._inputs import loop_oracle, rand_ints, randn
from grader.testing._memory import (
    assert_peak_memory,
    assert_saved_memory,
    peak_memory,
    saved_memory,
)
from grader.testing._meta import assert_runs_on_meta
from grader.testing._operators import (
    OpLog,
    assert_no_python_loop,
    assert_no_tensor_of,
    assert_ops_at_most,
    count_ops,
)
from grader.testing._raises import assert_raises
from grader.testing._record import measured, picture
from grader.testing._shapes import (
    assert_contiguous,
    assert_device,
    assert_dtype,
    assert_shape,
    assert_strides,
    assert_tensor,
)
from grader.testing._speed import assert_speed
from grader.testing._spy import Log, spy
from grader.testing._training import assert_same_seed_same_result, train_until
from grader.testing._values import assert_close, assert_equal, assert_finite
from grader.testing._views import assert_copy, assert_unchanged, assert_view

__all__ = [
    "Attention",
    "CheckFailed",
    "Log",
    "OpLog",
    "assert_close",
    "assert_contiguous",
    "assert_copy",
    "assert_device",
    "assert_dtype",
    "assert_equal",
    "assert_finite",
    "assert_gradients",
    "assert_gradients_close",
    "assert_independent",
    "assert_no_python_loop",
    "assert_no_tensor_of",
    "assert_ops_at_most",
    "assert_peak_memory",
    "assert_raises",
    "assert_runs_on_meta",
    "assert_same_seed_same_result",
    "assert_saved_memory",
    "assert_shape",
    "assert_speed",
    "assert_strides",
    "assert_tensor",
    "assert_unchanged",
    "assert_view",
    "attention_of",
    "count_ops",
    "expect",
    "fail",
    "forbid",
    "forbid_torch",
    "loop_oracle",
    "measured",
    "names_used",
    "peak_memory",
    "picture",
    "rand_ints",
    "randn",
    "saved_memory",
    "show_attention",
    "smallest",
    "spy",
    "train_until",
]
