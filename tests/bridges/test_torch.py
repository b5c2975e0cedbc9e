"""xent.torch: PyTorch's own samples and references, derivatives, operators and compilation, and what autograd may do
with a gradient that was computed beforehand."""

import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest

import xent

torch = pytest.importorskip("torch")
F = torch.nn.functional

import xent.torch as xt  # noqa: E402
from xent.torch import _eager, _layers, _operators  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),       # of what PyTorch imports
    pytest.mark.filterwarnings("ignore:.*(inductor|TORCH_LOGS|size_average|tf32)"),
]
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def widen(value):
    """A tensor of floats in float64, for a reference in half precision is inexact itself."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def assert_like_reference(function, reference, sample):
    """Loss and gradients of a sample, with a random gradient of the loss, against the reference in float64."""
    given = [sample.input, *sample.args]
    wide, keywords = [widen(x) for x in given], {name: widen(x) for name, x in sample.kwargs.items()}
    keywords.pop("options", None)
    loss, expected = function(*given, **sample.kwargs), reference(*wide, **keywords)
    assert loss.dtype == sample.input.dtype
    inputs = [x for x in (*given, *sample.kwargs.values()) if getattr(x, "requires_grad", False)]
    wide_inputs = [x for x in (*wide, *keywords.values()) if getattr(x, "requires_grad", False)]
    scale = torch.randn_like(loss)
    grads = torch.autograd.grad(loss, inputs, scale)
    wide_grads = torch.autograd.grad(expected, wide_inputs, scale.double())
    eps = torch.finfo(loss.dtype).eps
    for got, want in zip((loss.detach(), *grads), (expected.detach(), *wide_grads), strict=True):
        assert got.shape == want.shape
        # Sums of several products, each rounded to the type of the input, may cancel.
        size = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got.double(), want, rtol=4 * eps, atol=8 * eps * size)


def sample_inputs(name):
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations", exc_type=ImportError)
    if not hasattr(methods, name):
        pytest.skip(f"this version of PyTorch has no {name}")
    return getattr(methods, name)


@pytest.mark.parametrize("dtype", FLOATS)
def test_samples_of_pytorch(dtype):
    from torch.testing._internal.common_nn import cross_entropy_loss_reference

    count = 0
    for sample in sample_inputs("sample_inputs_cross_entropy")(None, "cpu", dtype, True):
        for smoothing in (0.0, 0.3):
            sample.kwargs["label_smoothing"] = smoothing
            assert_like_reference(xt.cross_entropy, cross_entropy_loss_reference, sample)
            count += 1
    assert count > 30


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [{}, {"chunked": True}, {"chunked": True, "chunked_none": True}])
def test_samples_of_pytorch_for_linear_layers(dtype, kind):
    make = sample_inputs("sample_inputs_linear_cross_entropy")
    from torch.testing._internal.common_nn import linear_cross_entropy_loss_reference

    samples = list(make(None, "cpu", dtype, True, **kind))
    for sample in samples:
        assert_like_reference(xt.linear_cross_entropy, linear_cross_entropy_loss_reference, sample)
    assert len(samples) > 20


def test_errors_of_linear_layers_have_pytorchs_type():
    for error in sample_inputs("error_inputs_linear_cross_entropy")(None, "cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type):
            xt.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_signatures_are_pytorchs(name):
    if not hasattr(F, name):
        pytest.skip(f"this version of PyTorch has no {name}")
    ours, theirs = (inspect.signature(getattr(module, name)).parameters.values() for module in (xt, F))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


# --- values ----------------------------------------------------------------------------------------------------------


def test_confident_rows_keep_their_digits():
    x = torch.tensor([[50.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = xt.cross_entropy(x, torch.tensor([0]))
    loss.backward()
    assert loss.item() == xent.cross_entropy([50.0, 0.0, 0.0], 0) == 3.8574996959278356e-22
    assert x.grad[0, 0].item() == pytest.approx(-3.8574996959278356e-22, rel=1e-12)
    assert F.cross_entropy(x, torch.tensor([0])).item() == 0


def make_batch(shape=(6, 5), dtype=torch.float32):
    rows = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    return torch.randn(shape, dtype=dtype), torch.randint(shape[1 if len(shape) > 1 else 0], rows)


def call_operator(x, y, reduction="mean", weight=None, smoothing=0.0):
    return _operators.cross_entropy(x, y, weight, reduction, -100, smoothing, x.dtype, x.requires_grad)[0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6, 5), (5,), (2, 5, 3), (300, 1000)])
def test_all_ways_give_the_same_bits(shape, reduction, dtype):
    x, y = make_batch(shape, dtype)
    x.requires_grad_()
    ways = [
        xt.cross_entropy(x, y, reduction=reduction),
        _eager.compute(x, y, None, xt._arrays.Options(reduction, -100, 0.0), dtype),
        call_operator(x, y, reduction),
    ]
    results = [(loss, *torch.autograd.grad(loss.sum(), x)) for loss in ways]
    with torch.no_grad():
        results.append((xt.cross_entropy(x, y, reduction=reduction), results[0][1]))
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(grad, results[0][1])
    axis = 1 if len(shape) > 1 else 0
    if dtype in (torch.float32, torch.float64):
        expected = xent.cross_entropy(x.detach(), y, axis=axis, reduction=reduction)
        assert torch.equal(results[0][0].detach(), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("make", [
    lambda: torch.randn(6, 10)[:, ::2], lambda: torch.randn(5, 6).T, lambda: torch.randn(2, 3, 5).transpose(1, 2),
    lambda: torch.randn(4, 1).expand(4, 5), lambda: torch.randn(1, 5).expand(4, 5), lambda: torch.randn(12, 5)[::2],
    lambda: torch.randn(3, 4, 5, 2).permute(3, 2, 0, 1),
])      # fmt: skip
def test_strides(make):
    x = make().requires_grad_()
    y = torch.randint(5, (x.shape[0], *x.shape[2:]))
    for target in (y, torch.rand(x.shape)):
        got, want = (f(x, target) for f in (xt.cross_entropy, F.cross_entropy))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))


def test_tensors_are_not_copied(monkeypatch):
    seen = []
    compute = xt._arrays.cross_entropy
    monkeypatch.setattr(xt._arrays, "cross_entropy", lambda x, *a, **k: seen.append(x) or compute(x, *a, **k))
    pytest.importorskip("ml_dtypes")
    for dtype in FLOATS:
        x, y = make_batch((4, 5, 3), dtype)
        xt.cross_entropy(x, y)
        assert seen[-1].ctypes.data == x.data_ptr()


def test_half_precision_without_ml_dtypes(monkeypatch):
    x, y = make_batch((4, 5), torch.bfloat16)
    x.requires_grad_()
    expected = xt.cross_entropy(x, y)
    grad = torch.autograd.grad(expected, x)[0]
    monkeypatch.setattr(xt._arrays, "bfloat16", None)
    loss = xt.cross_entropy(x, y)
    assert torch.equal(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], grad, rtol=2**-8, atol=0)


def test_a_scaled_loss_does_not_underflow_in_half_precision():
    x = torch.zeros(65536, 4, dtype=torch.float16, requires_grad=True)
    (xt.cross_entropy(x, torch.zeros(65536, dtype=torch.int64)) * 1024).backward()
    torch.testing.assert_close(x.grad[0], torch.tensor([-0.75, 0.25, 0.25, 0.25], dtype=torch.float16) / 64)


@pytest.mark.parametrize("dtype", FLOATS)
def test_autocast(dtype):
    x, y = make_batch(dtype=dtype)
    x.requires_grad_()
    with torch.autocast("cpu"):
        got, want = (f(x, y) for f in (xt.cross_entropy, F.cross_entropy))
        soft = xt.cross_entropy(x, torch.rand(6, 5, dtype=dtype))
        layer = xt.linear_cross_entropy(x, torch.randn(5, 5, dtype=dtype), y)
    assert got.dtype == want.dtype == soft.dtype == layer.dtype
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(got, x)[0].dtype == dtype


def test_types_of_targets():
    x, y = make_batch()
    want = F.cross_entropy(x, y)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        torch.testing.assert_close(xt.cross_entropy(x, y.to(dtype)), want)
    soft = torch.rand(6, 5, dtype=torch.float64)
    got, want = (f(x, soft) for f in (xt.cross_entropy, F.cross_entropy))
    assert got.dtype == want.dtype == torch.float64
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    torch.testing.assert_close(xt.cross_entropy(x[0], y[:1]), F.cross_entropy(x[0], y[:1]))


def test_batches_without_weight():
    x, y = make_batch()
    x.requires_grad_()
    ignored = torch.full_like(y, -100)
    for options in ({}, {"label_smoothing": 0.1}, {"weight": torch.rand(5)}):
        loss = xt.cross_entropy(x, ignored, **options)
        assert torch.isnan(loss)
        assert not torch.autograd.grad(loss, x)[0].any()
    for reduction in REDUCTIONS:
        for target in (y[:0], torch.rand(0, 5)):
            got, want = (f(x[:0], target, reduction=reduction) for f in (xt.cross_entropy, F.cross_entropy))
            torch.testing.assert_close(got, want, equal_nan=True)
            layer = xt.linear_cross_entropy(x[:0], torch.rand(5, 5), target, reduction=reduction)
            torch.testing.assert_close(layer, want, equal_nan=True)


def test_deprecated_arguments_are_translated():
    x, y = make_batch()
    for size_average, reduce in itertools.product((None, True, False), repeat=2):
        if (size_average, reduce) != (None, None):
            with pytest.warns(UserWarning, match="size_average and reduce args"):
                xt.cross_entropy(x, y, None, size_average, -100, reduce)
        got, want = (f(x, y, None, size_average, -100, reduce) for f in (xt.cross_entropy, F.cross_entropy))
        torch.testing.assert_close(got, want)


X, Y = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((X, torch.tensor([0, 5, 0])), {}, r"target\[1\] is 5; labels must be in \[0, 5\)"),
    ((X, torch.tensor([0, -1, 0])), {}, r"target\[1\] is -1"),
    ((X[..., None], torch.tensor([[0], [5], [0]])), {}, r"target\[1, 0\] is 5"),
    ((X, Y[:2]), {}, r"target has shape \(2,\)"),
    ((X[..., None], Y), {}, r"target has shape \(3,\)"),
    ((X, Y.bool()), {}, "target has dtype torch.bool"),
    ((X, Y.float()), {}, "target has dtype torch.float32"),
    ((X, X.long()), {}, "target has dtype torch.int64"),
    ((X, X), {"ignore_index": 1}, "ignore_index is 1"),
    ((X, Y), {"weight": torch.ones(4)}, r"weight has shape \(4,\)"),
    ((X, Y), {"weight": torch.ones(5, dtype=torch.int64)}, "weight has dtype"),
    ((X, Y), {"weight": torch.ones(5, requires_grad=True)}, "weight requires a gradient"),
    ((X, Y), {"label_smoothing": 1.5}, "label_smoothing is 1.5"),
    ((X, Y), {"reduction": "avg"}, "reduction is 'avg'"),
    ((X.long(), Y), {}, "input has dtype torch.int64"),
    ((X[0, 0], Y[0]), {}, "input is a number"),
    (([[1.0]], Y), {}, "input is a list"),
    ((X, [0, 0, 0]), {}, "target is a list"),
])      # fmt: skip
def test_errors_have_pytorchs_type(arguments, options, message):
    with pytest.raises(Exception, match=r"\w") as error:
        F.cross_entropy(*arguments, **options)
    with pytest.raises(error.type, match=message):
        xt.cross_entropy(*arguments, **options)


def test_other_devices_and_layouts_are_refused():
    with pytest.raises(RuntimeError, match="several devices"):
        xt.cross_entropy(X.to("meta"), Y)
    with pytest.raises(NotImplementedError, match=r"to_dense"):
        xt.cross_entropy(X.to_sparse(), Y)
    assert xt.cross_entropy(X.to("meta"), Y.to("meta"), reduction="none").shape == (3,)
    if not torch.cuda.is_available():
        return
    with pytest.raises(NotImplementedError, match="device cuda"):
        xt.cross_entropy(X.cuda(), Y.cuda())


# --- autograd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("signed", [None, 0.0, 0.5])
def test_first_and_second_derivatives(reduction, smoothing, signed):
    x, y = make_batch((4, 5), torch.float64)
    y[2] = -100
    weight = None if signed is None else torch.rand(5, dtype=torch.float64) - signed
    soft = torch.rand(4, 5, dtype=torch.float64)
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    for target in (y, soft):
        inputs = (x.requires_grad_(),)
        assert torch.autograd.gradcheck(
            lambda x, t=target: xt.cross_entropy(x, t, **options), inputs, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(lambda x, t=target: xt.cross_entropy(x, t, **options), inputs)
    inputs = (x, soft.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, t: xt.cross_entropy(x, t, **options), inputs)
    assert torch.autograd.gradgradcheck(lambda x, t: xt.cross_entropy(x, t, **options), inputs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("rows", "places"), [((4,), ()), ((), ()), ((4,), (2,))])
def test_derivatives_of_linear_layers(reduction, rows, places):
    def make(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    inputs = (make(*rows, 3), make(5, *places, 3), make(5, *places))
    weight = torch.rand(5, dtype=torch.float64) - 0.3
    for target in (torch.randint(5, (*rows, *places)), torch.rand(*rows, 5, *places, dtype=torch.float64)):
        def loss(x, w, b, target=target):
            return xt.linear_cross_entropy(
                x, w, target, linear_bias=b, weight=weight, reduction=reduction, label_smoothing=0.1
            )

        assert torch.autograd.gradcheck(loss, inputs)
        assert torch.autograd.gradgradcheck(loss, inputs)


def compute_grad(loss, x):
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("function", [xt.cross_entropy, call_operator])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_kept_graph_gives_the_same_gradient_again(function, reduction):
    x, y = make_batch()
    x.requires_grad_()
    expected = compute_grad(F.cross_entropy(x, y, reduction="sum"), x)
    loss = function(x, y, reduction=reduction)
    loss.sum().backward(retain_graph=True)
    x.grad.zero_()      # what the user has may be changed
    loss.sum().backward(retain_graph=True)
    torch.testing.assert_close(x.grad, expected)
    x.grad *= 3
    (2 * loss).sum().backward()
    torch.testing.assert_close(x.grad, 5 * expected)
    with pytest.raises(RuntimeError, match="second time"):
        loss.sum().backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_layers_with_a_kept_graph(reduction):
    x, y = make_batch()
    x.requires_grad_()
    weight = torch.randn(7, 5, requires_grad=True)
    loss = xt.linear_cross_entropy(x, weight, y, reduction=reduction)
    loss.sum().backward(retain_graph=True)
    expected = x.grad.clone(), weight.grad.clone()
    x.grad.zero_(), weight.grad.zero_()
    loss.sum().backward(retain_graph=True)
    torch.testing.assert_close((x.grad, weight.grad), expected)
    (3 * loss).sum().backward()
    torch.testing.assert_close((x.grad, weight.grad), tuple(4 * grad for grad in expected))


def test_gradients_are_accumulated():
    x, y = make_batch()
    x.requires_grad_()
    other = torch.randint(5, (6,))
    xt.cross_entropy(x, y).backward()
    xt.cross_entropy(x, other).backward()
    expected = compute_grad(F.cross_entropy(x, y) + F.cross_entropy(x, other), x)
    torch.testing.assert_close(x.grad, expected)


def test_where_the_graph_cannot_be_seen_the_gradient_is_copied(monkeypatch):
    monkeypatch.setattr(_eager, "keeps_graph", lambda: True)
    test_a_kept_graph_gives_the_same_gradient_again(xt.cross_entropy, "sum")


def test_unused_and_frozen_operands_have_no_gradient():
    x, y = make_batch()
    weight = torch.randn(7, 5, requires_grad=True)
    xt.linear_cross_entropy(x, weight, y).backward()
    assert x.grad is None
    assert weight.grad.shape == (7, 5)
    assert not xt.linear_cross_entropy(x, weight.detach(), y).requires_grad
    with torch.no_grad():
        assert not xt.cross_entropy(x.requires_grad_(), y).requires_grad
    with torch.inference_mode():
        assert xt.cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).item() == pytest.approx(np.log(4))


def test_a_changed_input_is_an_error_in_second_derivatives():
    x, y = make_batch()
    logits = x.requires_grad_() * 1
    loss = xt.cross_entropy(logits, y)
    logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_checkpointed_layers():
    from torch.utils.checkpoint import checkpoint

    x, y = make_batch()
    x.requires_grad_()
    loss = checkpoint(lambda x: xt.cross_entropy(2 * x, y), x, use_reentrant=False)
    torch.testing.assert_close(compute_grad(loss, x), compute_grad(F.cross_entropy(2 * x, y), x))


# --- operators, torch.compile, torch.func ----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("make", [
    lambda: torch.randn(4, 5), lambda: torch.randn(5), lambda: torch.randn(2, 3, 5).transpose(1, 2),
    lambda: torch.randn(2, 5, 1).expand(2, 5, 4), lambda: torch.randn(4, 5).bfloat16(),
    lambda: torch.randn(4, 5).half(),
])      # fmt: skip
def test_the_operator_is_registered_rightly(make, reduction):
    x = make()
    y = torch.randint(5, (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ())
    for target in (y, torch.rand(x.shape)):
        arguments = target, None, reduction, -100, 0.1, x.dtype
        torch.library.opcheck(_operators.cross_entropy, (x, *arguments, False))
        torch.library.opcheck(_operators.cross_entropy, (x.clone().requires_grad_(), *arguments, True))
    torch.library.opcheck(_operators.log_softmax, (x,))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_operators_of_linear_layers_are_registered_rightly(reduction):
    x, y = make_batch()
    weight, bias = torch.randn(5, 5), torch.randn(5)
    options = y, bias, None, reduction, -100, 0.0, torch.float32
    torch.library.opcheck(_layers.operator, (x, weight, *options, False))
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(_layers.operator, (x, weight, *options, True))
    x, weight = x.detach(), weight.detach()
    torch.library.opcheck(_layers.differentiate, (x, weight, y, bias, None, -100, 0.0, torch.randn(6)))


def compile_or_skip(function, *arguments):
    """The function compiled as a whole, for any number of rows."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    try:
        compiled(*arguments)
    except Exception as error:
        if "compiler" in str(error).lower() and "InvalidCxxCompiler" in str(type(error)) + str(error):
            pytest.skip("there is no C++ compiler")
        raise
    return compiled


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "reduction": "none"}])
def test_compiled_functions(options):
    compiled = compile_or_skip(lambda x, y: xt.cross_entropy(2 * x, y, **options).sum(), *make_batch())
    for rows in (6, 7, 11):
        x, y = make_batch((rows, 5))
        x.requires_grad_()
        got, want = compiled(x, y), F.cross_entropy(2 * x, y, **options).sum()
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(compute_grad(got, x), compute_grad(want, x))


def test_compiled_linear_layers():
    weight = torch.randn(7, 5, requires_grad=True)
    compiled = compile_or_skip(lambda x, y: xt.linear_cross_entropy(2 * x, weight, y), *make_batch())
    for rows in (6, 9):
        x, y = make_batch((rows, 5))
        want = F.cross_entropy(2 * x @ weight.T, y)
        got = compiled(x, y)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(compute_grad(got, weight), compute_grad(want, weight))


def test_transforms():
    vmap, grad, jacrev = torch.func.vmap, torch.func.grad, torch.func.jacrev
    x, y = torch.randn(3, 6, 5), torch.randint(5, (3, 6))
    soft, weight = torch.rand(6, 5), torch.randn(5, 5)
    for transform in (
        lambda f: grad(f)(x[0], y[0]), lambda f: vmap(f)(x, y), lambda f: vmap(grad(f))(x, y),
        lambda f: jacrev(jacrev(f))(x[0], y[0]), lambda f: grad(f, argnums=(0, 1))(x[0], soft),
        lambda f: vmap(f, in_dims=(1, None))(x, y[0, :3]),
    ):      # fmt: skip
        torch.testing.assert_close(transform(xt.cross_entropy), transform(F.cross_entropy))
    got = vmap(grad(xt.linear_cross_entropy, argnums=1), in_dims=(0, None, 0))(x, weight, y)
    want = vmap(grad(lambda x, w, y: F.cross_entropy(x @ w.T, y), argnums=1), in_dims=(0, None, 0))(x, weight, y)
    torch.testing.assert_close(got, want)


def test_forward_mode_is_refused():
    from torch.autograd import forward_ad

    x, y = make_batch()
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: xt.cross_entropy(x, y), (x,), (x,))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        xt.cross_entropy(forward_ad.make_dual(x, x), y)


def test_modes_and_subclasses_see_an_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            names.append(str(function))
            return function(*arguments, **(keywords or {}))

    names = []
    with Recorder():
        xt.cross_entropy(*make_batch())
    assert "xent.cross_entropy.default" in names


# --- beside PyTorch --------------------------------------------------------------------------------------------------


def test_threads_are_those_of_both():
    before = torch.get_num_threads(), xent.get_num_threads()
    try:
        for torchs, xents in ((1, 2), (2, 1), (2, 3)):
            torch.set_num_threads(torchs)
            xent.set_num_threads(xents)
            assert xt._arrays.choose_n_threads() == min(torchs, xents)
    finally:
        torch.set_num_threads(before[0])
        xent.set_num_threads(before[1])


def test_xent_does_not_import_torch():
    code = "import sys, xent; assert 'torch' not in sys.modules; import xent.torch; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_learns():
    torch.manual_seed(0)
    X, y = (torch.from_numpy(array) for array in xent.datasets.load_digits())
    X = X.float() / 16
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        xt.cross_entropy(model(X), y).backward()
        optimizer.step()
    assert (model(X).argmax(dim=1) == y).float().mean() > 0.9
