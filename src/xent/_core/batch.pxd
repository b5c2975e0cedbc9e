# The operands and options of a loss over classes. An option is a field of Batch, with its default in `set_defaults` and
# if it changes the formula, a condition in `has_plain_formula`; `bind_batch` of _kernels.pyx sets it, and `loss_of` and
# `gradient_of` there use it.

from libc.stdint cimport int64_t

from xent._core.strided cimport ABSENT, F64, Operand
from xent._core.transforms cimport Transform, is_usual_transform


cdef enum Form:
    LABELS, DISTRIBUTION, SPARSE


cdef struct Batch:              # (*) may be absent
    Operand logits              # (rows, classes); or probabilities
    Form form
    Operand target              # labels, one a row; a distribution; the classes of a sparse one
    Operand target_probs        # (*) of those classes
    int64_t ignore_index
    bint ignores                # whether there is such an index
    Operand where               # (*) bool: the classes that can happen
    Operand class_weight        # (*) one row of float64, for every row of the batch
    Operand sample_weight       # (*) one a row
    bint has_extreme_weights    # so large, small or far apart that every row needs a unit of its own
    int weight_exponent         # losses and gradients come in units of 2^weight_exponent; 0 unless weights are extreme
    Transform transform         # of the logits
    double smoothing
    double z_loss
    double poly_epsilon         # multiplies T - sum of t_c p_c, which is added to the loss
    double focal_gamma          # the exponent of 1 - p_y, which multiplies the loss; rows have one class then
    double divisor              # of the gradient and the Hessian
    Operand loss                # (*) output, one a row
    Operand grad                # (*) output
    Operand hess                # (*) output, the diagonal of the Hessian: only with a gradient, see `hessian_of`
    Py_ssize_t piece            # elements of a row that are read at a time


cdef inline void set_defaults(Batch* batch) noexcept nogil:
    """Labels, no options, no outputs; the logits and the target remain to be set."""
    batch.form = LABELS
    batch.target_probs.kind = batch.where.kind = batch.class_weight.kind = batch.sample_weight.kind = ABSENT
    batch.loss.kind = batch.grad.kind = batch.hess.kind = ABSENT
    batch.ignores = batch.has_extreme_weights = False
    batch.ignore_index = batch.weight_exponent = 0
    batch.transform.scale = batch.divisor = 1
    batch.transform.softcap = batch.transform.origin = batch.smoothing = batch.z_loss = 0
    batch.poly_epsilon = batch.focal_gamma = 0


cdef inline double largest_usual_weight() noexcept nogil:
    return 2.037035976334486e90     # 2^300


cdef inline bint is_usual_weight(double sample_weight) noexcept nogil:
    """Whether the weight of a row is neither 0 nor extreme."""
    return 1 / largest_usual_weight() <= sample_weight <= largest_usual_weight()


cdef inline bint needs_own_unit(const Batch* batch, double sample_weight) noexcept nogil:
    """Whether the weight of a row is extreme, in a batch that has no extreme weights as a whole."""
    return sample_weight != 0 and not is_usual_weight(sample_weight) and not batch.has_extreme_weights


cdef inline bint transforms(const Batch* batch) noexcept nogil:
    return batch.transform.scale != 1 or batch.transform.softcap != 0


cdef inline bint smooths(const Batch* batch) noexcept nogil:
    return batch.smoothing != 0 and batch.logits.n > 0


cdef inline bint has_smoothed_formula(const Batch* batch) noexcept nogil:
    """Whether no option changes the formula but those that change the target."""
    return (
        batch.z_loss == 0 and batch.poly_epsilon == 0 and batch.focal_gamma == 0 and not transforms(batch)
        and not batch.has_extreme_weights
    )


cdef inline bint has_plain_formula(const Batch* batch) noexcept nogil:
    """Whether the loss of a row with all its mass on one class is the formula without options, but for a factor."""
    return batch.smoothing == 0 and has_smoothed_formula(batch)


cdef inline bint needs_float64(const Batch* batch) noexcept nogil:
    """Whether rows are computed in float64, whatever the logits are."""
    return batch.logits.kind == F64 or batch.has_extreme_weights or not is_usual_transform(&batch.transform)
