"""Tensors of other libraries as arguments: read in place, with the results of the same NumPy arrays, or refused."""

import re
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from good_arguments import FLOATS, INDICES, LABELS, MASS, READABLE_DEVICES, Tensor, fails
from reference import LAYOUTS, assert_same_bits

import xent
from xent._calls.arrays import to_array

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

GPU = 2     # in DLPack


def to_torch(array):
    """A tensor in the memory of the array."""
    torch = pytest.importorskip("torch")
    if array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_jax(array):
    """A copy, which cannot be written to."""
    return pytest.importorskip("jax.numpy").asarray(array)


LIBRARIES = {"DLPack": Tensor, "torch": to_torch, "jax": to_jax}
TYPES = [       # of floats: NumPy reads no bfloat16 by DLPack alone, and JAX makes float32 of float64
    *(("DLPack", dtype) for dtype in ("f2", "f4", "f8")),
    *(("torch", dtype) for dtype in ("f2", bfloat16, "f4", "f8")),
    *(("jax", dtype) for dtype in ("f2", bfloat16, "f4")),
]
each_library = pytest.mark.parametrize("make", LIBRARIES.values(), ids=LIBRARIES)

# Every function, and every argument that is an array. A fit and a prediction are functions here.
P = np.random.default_rng(0).dirichlet(np.ones(4), 3)
WEIGHT, MASK = P[:, 0], P > 0.01
ARGUMENTS = {
    "logsumexp": {"x": P, "b": P},
    "softmax": {"x": P},
    "log_softmax": {"x": P},
    "cross_entropy": {"logits": P, "target": LABELS, "class_weight": P[0], "sample_weight": WEIGHT, "where": MASK},
    "categorical_cross_entropy": {"proba": P, "target": LABELS, "sample_weight": WEIGHT},
    "binary_cross_entropy_with_logits": {"logits": P, "target": P, "pos_weight": P, "sample_weight": P},
    "binary_cross_entropy": {"proba": P, "target": P, "sample_weight": P},
    "linear_cross_entropy": {
        "X": P, "weight": P, "target": LABELS, "bias": WEIGHT, "class_weight": WEIGHT, "sample_weight": WEIGHT,
        "where": P[:, :3] > 0.01,
    },
    "evaluate": {"logits": P, "target": LABELS, "sample_weight": WEIGHT},
    "log_loss": {"y_true": LABELS, "y_proba": P[:, :3] / P[:, :3].sum(axis=1, keepdims=True),
                 "sample_weight": WEIGHT, "labels": LABELS},
    "fit": {"X": P, "y": LABELS, "sample_weight": WEIGHT},
    "predict": {"X": P},
    "score": {"X": P, "y": LABELS, "sample_weight": WEIGHT},
    "from_arrays": {"X": P, "y": LABELS, "sample_weight": WEIGHT, "classes": LABELS},
}   # fmt: skip
MODEL = xent.LogisticRegression().fit(P, LABELS)
SPECIAL = {
    "fit": lambda **given: xent.LogisticRegression().fit(**given).coef_,
    "predict": MODEL.predict_proba,
    "score": MODEL.score,
    "from_arrays": lambda **given: xent.LogisticRegression().fit(xent.Blocks.from_arrays(**given)).coef_,
}
GIVE_GRAD = ["cross_entropy", "binary_cross_entropy_with_logits", "binary_cross_entropy", "linear_cross_entropy"]
each_argument = pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, given in ARGUMENTS.items() for argument in given]
)


def call(name, given):
    return SPECIAL[name](**given) if name in SPECIAL else getattr(xent, name)(**given)


def assert_same(actual, expected):
    if isinstance(expected, tuple):
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, np.ndarray):
        assert type(actual) is np.ndarray
        assert_same_bits(actual, expected)
    else:
        np.testing.assert_equal(actual, expected)       # any NaN equals any other


# --- in place --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["C", "Fortran", "every other", "rolled axes"])
@pytest.mark.parametrize("library", ["DLPack", "torch"])
def test_tensors_are_read_in_place(library, layout):
    floats = [dtype for name, dtype in TYPES if name == library]
    for dtype in ("?", "u1", "i1", "i4", "i8", *floats):
        for shape in ((), (5,), (3, 4), (2, 3, 4)):
            array = LAYOUTS[layout](np.ones(shape, dtype))
            result = to_array("x", LIBRARIES[library](array))
            assert type(result) is np.ndarray
            for name in ("shape", "dtype", "strides"):
                assert getattr(result, name) == getattr(array, name)
            assert result.ctypes.data == array.ctypes.data


@pytest.mark.parametrize("device", READABLE_DEVICES)
def test_devices_that_share_the_memory(device):
    assert np.shares_memory(to_array("x", Tensor(P, device)), P)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "f2", bfloat16, "f4"])
def test_arrays_of_jax_are_read_in_place(dtype):
    for shape in ((), (5,), (3, 4)):
        array = to_jax(np.ones(shape, dtype))
        result = to_array("x", array)
        assert (result.shape, result.dtype) == (shape, dtype)
        assert result.ctypes.data == array.unsafe_buffer_pointer()


def test_repeated_rows_and_slices_of_torch():
    torch = pytest.importorskip("torch")
    for x in (torch.ones(1, 4).expand(3, 4), torch.ones(6, 8, dtype=torch.bfloat16)[1::2, 3:]):
        array = to_array("x", x)
        assert array.ctypes.data == x.data_ptr()
        assert array.strides == tuple(step * x.element_size() for step in x.stride())


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_bfloat16_is_not_copied(library):
    x = LIBRARIES[library](np.ones((1000, 4000), bfloat16))
    labels = LIBRARIES[library](np.zeros(1000, np.int32))

    def calls():
        xent.cross_entropy(x, labels)
        xent.evaluate(x, labels)
        xent.logsumexp(x)

    calls()     # allocates what is needed once
    tracemalloc.start()
    calls()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# --- the same results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(("library", "dtype"), TYPES)
def test_results_are_those_of_arrays(library, dtype, name):
    make, arrays = LIBRARIES[library], {}
    for argument, array in ARGUMENTS[name].items():
        is_half = np.dtype(dtype).itemsize == 2
        wanted = "f4" if is_half and argument == "X" and name in SPECIAL else dtype
        arrays[argument] = array.astype({"f": wanted, "i": np.int32, "b": bool}[array.dtype.kind])
    options = {"reduction": "none", "return_grad": True} if name in GIVE_GRAD else {}
    tensors = {argument: make(array) for argument, array in arrays.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_proba")        # rounded probabilities have other sums
        assert_same(call(name, {**tensors, **options}), call(name, {**arrays, **options}))


@each_library
def test_targets(make):
    """Labels of any type, distributions, one-hot rows, also of booleans, and sparse distributions."""
    x = np.log(P).astype(np.float32)
    one_hot = np.eye(4, dtype="f4")[LABELS]
    for kind in ("i1", "i2", "i4", "u1", "u2"):
        assert xent.cross_entropy(make(x), make(LABELS.astype(kind))) == xent.cross_entropy(x, LABELS)
        assert xent.cross_entropy(x, make(one_hot.astype(kind))) == xent.cross_entropy(x, LABELS)
        sparse = make(INDICES.astype(kind)), make(MASS.astype("f4"))
        assert xent.cross_entropy(x, sparse) == xent.cross_entropy(x, (INDICES, MASS))
    for target in (P.astype("f4"), one_hot == 1):
        assert_same(
            xent.cross_entropy(make(x), make(target), return_grad=True), xent.cross_entropy(x, target, return_grad=True)
        )
    for function in (xent.binary_cross_entropy, xent.binary_cross_entropy_with_logits):
        assert function(make(P.astype("f4")), make(one_hot == 1)) == function(P.astype("f4"), one_hot)


@each_library
def test_lists_of_tensors(make):
    rows, labels = list(map(make, P.astype("f4"))), [make(np.array(i)) for i in LABELS.astype("i4")]
    assert_same(xent.softmax(rows), xent.softmax(P.astype("f4")))
    assert_same(xent.softmax([rows, rows]), xent.softmax(np.array([P, P], "f4")))
    assert xent.cross_entropy(tuple(rows), labels) == xent.cross_entropy(P.astype("f4"), LABELS)
    with pytest.raises(ValueError, match=r"^logits is not a rectangular array: "):
        xent.cross_entropy([rows[0], make(P[0, :3].astype("f4"))], [0, 1])
    if make is not Tensor:
        assert_same(xent.softmax(list(map(make, P.astype(bfloat16)))), xent.softmax(P.astype(bfloat16)))


def test_numbers_of_torch():
    torch = pytest.importorskip("torch")
    expected = xent.cross_entropy(P, LABELS, label_smoothing=0.125)
    assert xent.cross_entropy(P, LABELS, label_smoothing=torch.tensor(0.125)) == expected
    for bad, message in (
        (torch.tensor(True), r"is array\(True\); it must be a real number"),
        (torch.tensor([0.5, 0.25]), r"is array\(\[0\.5 ?, 0\.25\], dtype=float32\); it must be a real number"),
        (torch.tensor(0.1, requires_grad=True), r"requires a gradient, .* use softcap\.detach\(\)"),
        (torch.tensor(0.1).to("meta"), r"is on the device meta; .* use softcap\.cpu\(\)"),
    ):
        with pytest.raises(TypeError, match=f"^softcap {message}"):
            xent.cross_entropy(P, LABELS, softcap=bad)


def test_bfloat16_without_ml_dtypes(monkeypatch):
    """It becomes float32, which has all its numbers."""
    x = P.astype(bfloat16)
    expected = xent.cross_entropy(x.astype(np.float32), LABELS, return_grad=True)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert_same(xent.cross_entropy(to_torch(x), LABELS, return_grad=True), expected)


# --- refused ---------------------------------------------------------------------------------------------------------


def is_refused(name, argument, tensor, message):
    """With a TypeError, and nothing is written to outputs."""
    given = {**ARGUMENTS[name], argument: tensor}
    out = {}
    if name in GIVE_GRAD[:3]:
        out["grad_out"] = np.full(P.shape, 77.0)
    elif name in ("softmax", "log_softmax"):
        out["out"] = np.full(P.shape, 77.0)
    with pytest.raises(TypeError, match=f"^{re.escape(argument)} {message}"):
        call(name, {**given, **out})
    for array in out.values():
        assert (array == 77).all()


@each_argument
def test_other_devices(name, argument):
    """The memory is not touched, and nothing has been computed."""
    message = rf"is a Tensor on another device \(2 in DLPack\); it must be on the CPU: use {argument}\.cpu\(\)"
    is_refused(name, argument, Tensor(ARGUMENTS[name][argument], GPU), message)


@each_argument
def test_tensors_of_torch_that_cannot_be_read(name, argument):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(ARGUMENTS[name][argument])
    message = rf"is on the device meta; it must be on the CPU: use {argument}\.cpu\(\)"
    is_refused(name, argument, tensor.to("meta"), message)
    if tensor.is_floating_point():
        message = rf"requires a gradient, which xent does not pass on: use {argument}\.detach\(\)"
        is_refused(name, argument, tensor.clone().requires_grad_(), message)
        is_refused(name, argument, torch.nn.Parameter(tensor.bfloat16()), message)


def test_strange_tensors_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(P)
    negated = torch.complex(x, x).conj().imag       # a view of x and a bit that says "negated"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # these are beta or deprecated
        cases = [
            (x.to_sparse(), r"has the layout torch\.sparse_coo; it must be dense: use logits\.to_dense\(\)"),
            (x.to_sparse_csr(), r"has the layout torch\.sparse_csr; it must be dense: use logits\.to_dense\(\)"),
            (torch.nested.nested_tensor([x[0], x[1, :2]]), "is a Tensor of dtype torch.float64, which NumPy cannot"),
            (torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), "is a Tensor of dtype torch.qint8, which Num"),
        ]
    cases += [
        (negated, r"is a Tensor of dtype torch\.float64, which NumPy cannot read: .*resolve_neg\(\)"),
        (x.to(torch.float8_e4m3fn), r"is a Tensor of dtype torch\.float8_e4m3fn, which NumPy cannot read: "),
        (torch.complex(x, x), "has dtype complex128; it must be real numbers"),
        (x > 0.5, "has dtype bool; it must be real numbers"),
    ]
    for tensor, message in cases:
        is_refused("cross_entropy", "logits", tensor, message)
    with pytest.raises(TypeError, match=r"^logits\[1\] is on the device meta; .* use logits\[1\]\.cpu\(\)"):
        xent.cross_entropy([x[0], x[1].to("meta")], [0, 1])


@each_library
def test_types_that_are_not_allowed(make):
    """As for arrays; an empty tensor has a type, unlike an empty list."""
    x = P.astype("f4")
    for labels in (np.zeros(3, "f4"), np.zeros(0, "f4"), np.full(3, np.nan, "f4")):
        message = "target has dtype float32; labels must be integers"
        fails(TypeError, message, xent.cross_entropy, x[: len(labels)], make(labels))
    fails(TypeError, "where has dtype uint8; it must be bool", xent.cross_entropy, x, LABELS,
          where=make(MASK.astype("u1")))


def test_outputs_are_arrays():
    """The memory of a tensor can be written to as the array that shares it."""
    x = P.astype("f4")
    fails(TypeError, "out is a Tensor; it must be a NumPy array", xent.softmax, x, out=Tensor(x))
    logits = to_torch(x.copy())
    message = "grad_out is a Tensor; it must be a NumPy array: pass grad_out.numpy(), which has the same memory"
    fails(TypeError, message, xent.cross_entropy, logits, LABELS, grad_out=logits)
    _, grad = xent.cross_entropy(logits, LABELS, grad_out=logits.numpy())
    assert_same_bits(grad, xent.cross_entropy(x, LABELS, return_grad=True)[1])
    assert grad.ctypes.data == logits.data_ptr()


class Unreadable(Tensor):
    """Of a type for which NumPy has no DLPack. Libraries differ in what `__array__` gives then."""

    def __dlpack__(self, **options):
        raise BufferError("Unsupported dtype in DLTensor.")

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_bits_are_not_taken_for_numbers():
    assert_same(xent.softmax(Unreadable(P.astype(bfloat16))), xent.softmax(P.astype(bfloat16)))
    tensor = Unreadable(P.astype(bfloat16).view(np.uint16))
    tensor.dtype = "bfloat16"
    message = "x is a Unreadable of dtype bfloat16, which NumPy cannot read: Unsupported dtype in DLTensor."
    fails(TypeError, message, xent.softmax, tensor)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int4"])
def test_types_of_jax_that_are_not_allowed(dtype):
    x = pytest.importorskip("jax.numpy").ones(3, dtype)
    fails(TypeError, f"x has dtype {dtype}; it must be real numbers, {FLOATS}", xent.softmax, x)


def test_traced_by_jax():
    jax = pytest.importorskip("jax")
    x = to_jax(P.astype("f4"))
    for transform in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(TypeError, match=r"^logits has no values yet: JAX is tracing it \(jit, grad, vmap\); "):
            transform(lambda x: xent.cross_entropy(x, LABELS[0]))(x if transform is jax.vmap else x[0])
    shape = jax.ShapeDtypeStruct((), np.float32)
    callback = jax.jit(lambda x: jax.pure_callback(lambda x: np.float32(xent.cross_entropy(x, LABELS)), shape, x))
    assert callback(x) == np.float32(xent.cross_entropy(P.astype("f4"), LABELS))
