# Part of _kernels.pyx: coordinate descent on a quadratic with kinks.
#
# A quadratic in x, of which the gradient is known, plus the sum of kinks[c] |x[c]|. One coordinate after the other moves
# to where the sum is least along it:
#
#     x[c] = soft_threshold(x[c] - gradient[c] / curvature, kinks[c] / curvature)
#
# The quadratic is given by its Hessian (few coordinates), or by the columns of X and what each row contributes (many).
# Sums run in one thread, in a fixed order.

ctypedef fused element_type:
    float
    double


cdef inline double violation_of(double x, double gradient, double kink) noexcept nogil:
    """The least absolute element of the subdifferential along one coordinate."""
    if x > 0:
        return fabs(gradient + kink)
    if x < 0:
        return fabs(gradient - kink)
    return max(fabs(gradient) - kink, 0)


cdef inline double change_along(double x, double gradient, double kink, double curvature) noexcept nogil:
    """The step to where the quadratic and the kink are least along one coordinate."""
    cdef double moved = x - gradient / curvature, threshold = kink / curvature
    if moved > threshold:
        return moved - threshold - x
    return (moved + threshold if moved < -threshold else 0) - x


cdef void add_multiple(double* sum, const double* row, double factor, Py_ssize_t n) noexcept nogil:
    """sum += factor row"""
    cdef vf64* to = <vf64*>sum
    cdef const vf64* by = <const vf64*>row
    cdef vf64 factors = fill(by, factor)
    cdef Py_ssize_t i = 0, whole = n - n % lanes(by)
    while i < whole:
        from_element(to, i)[0] = multiply_add(element(by, i)[0], factors, from_element(to, i)[0])
        i += lanes(by)
    for i in range(whole, n):
        sum[i] += factor * row[i]


def descend_hessian(hessian, x, gradient, kinks, Py_ssize_t sweeps, double enough):
    """Sweeps over all coordinates, which change x and the gradient, until one meets no violation above `enough`.

    All arrays are contiguous and float64; the Hessian has the shape (n, n). Returns the largest violation that the last
    sweep has met.
    """
    cdef Py_ssize_t n = cnp.PyArray_DIM(<cnp.ndarray>x, 0), sweep, c
    cdef const double* rows = <const double*>cnp.PyArray_DATA(<cnp.ndarray>hessian)
    cdef double* at = <double*>cnp.PyArray_DATA(<cnp.ndarray>x)
    cdef double* slopes = <double*>cnp.PyArray_DATA(<cnp.ndarray>gradient)
    cdef const double* kink = <const double*>cnp.PyArray_DATA(<cnp.ndarray>kinks)
    cdef double violation, curvature, worst = 0, change
    with nogil:
        for sweep in range(sweeps):
            worst = 0
            for c in range(n):
                violation = violation_of(at[c], slopes[c], kink[c])
                worst = max(worst, violation)
                curvature = rows[c * n + c]
                if not (violation > 0 and curvature > 0):
                    continue
                change = change_along(at[c], slopes[c], kink[c], curvature)
                if change != 0:
                    at[c] += change
                    add_multiple(slopes, rows + c * n, change, n)
            if worst <= enough:
                break
    return worst


# ---------------------------------------------------------------------------------------------------------------------
# By the columns of X
# ---------------------------------------------------------------------------------------------------------------------
#
# The quadratic is that of a Newton step of the softmax cross-entropy. While the coordinates of one class k move, those
# of the other classes stand still, and each row i contributes a parabola in t_i, the change of its logit k:
#
#     slope_i t_i + bend_i t_i^2 / 2        slope = w p_k (u_k - p . u)        bend = w p_k (1 - p_k)
#
# with w the weight of the row, p its probabilities, and u the changes of all its logits before.

cdef struct Columns:
    char* values                # of all columns, one after the other; float64 unless sparse
    char* rows                  # sparse: of each value
    char* starts                # sparse: places of the first values of columns, and the end; of the type of `rows`
    bint long_index             # int64, not int32
    Py_ssize_t n_rows
    Py_ssize_t n_features


cdef struct Parabolas:          # of all rows, for one class
    double* slope               # at the present t
    double* bend
    double* change              # t


cdef struct Coordinates:        # of all classes, one class after the other
    const int64_t* column       # n_features: the intercept's, which is 1 in each row
    double* x
    double* gradient            # of the quadratic at the start and, since, of the ridges
    const double* kink
    double* curvature           # negative: not known yet
    const double* ridge         # curvature that is not that of the rows


cdef inline Py_ssize_t row_at(const index_type* rows, Py_ssize_t k, Py_ssize_t first) noexcept nogil:
    return k - first if rows is NULL else <Py_ssize_t>rows[k]


cdef inline double value_at(const element_type* values, Py_ssize_t k) noexcept nogil:
    return 1 if values is NULL else <double>values[k]


cdef double multiply_sums(const double* x, const double* y, Py_ssize_t n) noexcept nogil:
    """x . y"""
    cdef const vf64* a = <const vf64*>x
    cdef const vf64* b = <const vf64*>y
    cdef vf64 sum = fill(a, 0), more = fill(a, 0)
    cdef Py_ssize_t i = 0, L = lanes(a)
    cdef double total
    while i + 2 * L <= n:
        sum = multiply_add(element(a, i)[0], element(b, i)[0], sum)
        more = multiply_add(element(a, i + L)[0], element(b, i + L)[0], more)
        i += 2 * L
    total = add_lanes_of(sum + more)
    while i < n:
        total += x[i] * y[i]
        i += 1
    return total


cdef void add_products(double* sum, const double* x, const double* y, double factor, Py_ssize_t n) noexcept nogil:
    """sum += factor x y"""
    cdef vf64* to = <vf64*>sum
    cdef const vf64* a = <const vf64*>x
    cdef const vf64* b = <const vf64*>y
    cdef vf64 factors = fill(a, factor)
    cdef Py_ssize_t i = 0, L = lanes(a)
    while i + L <= n:
        from_element(to, i)[0] = multiply_add(factors * element(a, i)[0], element(b, i)[0], from_element(to, i)[0])
        i += L
    while i < n:
        sum[i] += factor * x[i] * y[i]
        i += 1


cdef double slope_along(
    const element_type* values, const index_type* rows, Py_ssize_t first, Py_ssize_t last, const Parabolas* row
) noexcept nogil:
    """The slope along a column: the sum of value slope_i."""
    cdef Py_ssize_t k
    cdef double sum = 0
    if element_type is double:
        if rows is NULL and values is not NULL:
            return multiply_sums(values + first, row.slope, last - first)
    for k in range(first, last):
        sum += value_at(values, k) * row.slope[row_at(rows, k, first)]
    return sum


cdef double curvature_along(
    const element_type* values, const index_type* rows, Py_ssize_t first, Py_ssize_t last, const Parabolas* row
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double sum = 0
    for k in range(first, last):
        sum += value_at(values, k) * value_at(values, k) * row.bend[row_at(rows, k, first)]
    return sum


cdef void move_along(
    const element_type* values, const index_type* rows, Py_ssize_t first, Py_ssize_t last, const Parabolas* row,
    double change
) noexcept nogil:
    """What a change along a column does to the rows."""
    cdef Py_ssize_t k, i
    cdef double step
    if element_type is double:
        if rows is NULL and values is not NULL:
            add_multiple(row.change, values + first, change, last - first)
            add_products(row.slope, values + first, row.bend, change, last - first)
            return
    for k in range(first, last):
        i = row_at(rows, k, first)
        step = change * value_at(values, k)
        row.change[i] += step
        row.slope[i] += row.bend[i] * step


cdef double descend_class(
    const Columns* columns, const element_type* values, const index_type* rows, const Coordinates* coordinates,
    Py_ssize_t first, Py_ssize_t last, const Parabolas* row
) noexcept nogil:
    """One sweep over the coordinates first <= c < last, all of one class. Returns the largest violation it meets."""
    cdef const index_type* starts = <const index_type*>columns.starts
    cdef const element_type* of_column
    cdef const index_type* of_rows
    cdef Py_ssize_t c, j, begin, end
    cdef double slope, violation, change, worst = 0
    for c in range(first, last):
        j = coordinates.column[c]
        of_column, of_rows = values, rows
        if j == columns.n_features:
            of_column, of_rows, begin, end = NULL, NULL, 0, columns.n_rows
        elif starts is NULL:
            begin, end = j * columns.n_rows, (j + 1) * columns.n_rows
        else:
            begin, end = starts[j], starts[j + 1]
        if coordinates.curvature[c] < 0:
            coordinates.curvature[c] = (
                coordinates.ridge[c] + curvature_along(of_column, of_rows, begin, end, row)
            )
        slope = coordinates.gradient[c] + slope_along(of_column, of_rows, begin, end, row)
        violation = violation_of(coordinates.x[c], slope, coordinates.kink[c])
        worst = max(worst, violation)
        if not (violation > 0 and coordinates.curvature[c] > 0):
            continue
        change = change_along(coordinates.x[c], slope, coordinates.kink[c], coordinates.curvature[c])
        if change != 0:
            coordinates.x[c] += change
            coordinates.gradient[c] += coordinates.ridge[c] * change
            move_along(of_column, of_rows, begin, end, row, change)
    return worst


cdef double descend_class_of(
    const Columns* columns, bint is_double, const Coordinates* coordinates, Py_ssize_t first, Py_ssize_t last,
    const Parabolas* row
) noexcept nogil:
    """The same for the types of the columns."""
    cdef char* x = columns.values
    if is_double and columns.long_index:
        return descend_class(columns, <double*>x, <int64_t*>columns.rows, coordinates, first, last, row)
    if is_double:
        return descend_class(columns, <double*>x, <int32_t*>columns.rows, coordinates, first, last, row)
    if columns.long_index:
        return descend_class(columns, <float*>x, <int64_t*>columns.rows, coordinates, first, last, row)
    return descend_class(columns, <float*>x, <int32_t*>columns.rows, coordinates, first, last, row)


cdef double* doubles_of(array):
    return <double*>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef void start_class(
    const Parabolas* row, const double* p, const double* rest, const double* weight, const double* logit_changes,
    const double* mean_changes, Py_ssize_t n
) noexcept nogil:
    """The parabolas of a class with probabilities p, the others together `rest`."""
    cdef Py_ssize_t i
    cdef double spread
    for i in range(n):
        spread = weight[i] * p[i]
        row.slope[i] = spread * (logit_changes[i] - mean_changes[i])
        row.bend[i] = spread * rest[i]
        row.change[i] = 0


cdef void end_class(
    const Parabolas* row, const double* p, double* logit_changes, double* mean_changes, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        logit_changes[i] += row.change[i]
        mean_changes[i] += p[i] * row.change[i]


def descend_columns(operands, Py_ssize_t sweeps):
    """`sweeps` over the coordinates of each class, one class after the other.

    operands: ColumnOperands of _fit/column_descent.py. Changes `x`, `gradient`, `curvature`, `logit_changes` and
    `mean_changes`. Returns the largest violation that the first sweeps of the classes have met.
    """
    cdef Columns columns
    cdef Coordinates coordinates
    cdef Parabolas row
    X = operands.X
    columns.values = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[0])
    columns.rows = columns.starts = NULL
    columns.long_index = False
    if X[1] is not None:
        columns.rows = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[1])
        columns.starts = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[2])
        columns.long_index = cnp.PyArray_ITEMSIZE(<cnp.ndarray>X[1]) == 8
    columns.n_features = operands.n_features
    columns.n_rows = cnp.PyArray_DIM(<cnp.ndarray>operands.weight, 0)
    coordinates.column = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray>operands.column)
    coordinates.x = doubles_of(operands.x)
    coordinates.gradient = doubles_of(operands.gradient)
    coordinates.kink = doubles_of(operands.kinks)
    coordinates.curvature = doubles_of(operands.curvature)
    coordinates.ridge = doubles_of(operands.ridges)
    row.slope = doubles_of(operands.scratch)
    row.bend = row.slope + columns.n_rows
    row.change = row.bend + columns.n_rows
    cdef bint is_double = cnp.PyArray_ITEMSIZE(<cnp.ndarray>X[0]) == 8
    cdef Py_ssize_t n_classes = cnp.PyArray_DIM(<cnp.ndarray>operands.p, 0), n = columns.n_rows, k, sweep
    cdef const int64_t* starts = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray>operands.class_starts)
    cdef const double* p = doubles_of(operands.p)
    cdef const double* rest = doubles_of(operands.rest)
    cdef const double* weight = doubles_of(operands.weight)
    cdef double* logit_changes = doubles_of(operands.logit_changes)
    cdef double* mean_changes = doubles_of(operands.mean_changes)
    cdef double met, worst = 0
    with nogil:
        for k in range(n_classes):
            if starts[k] == starts[k + 1]:
                continue
            start_class(&row, p + k * n, rest + k * n, weight, logit_changes + k * n, mean_changes, n)
            for sweep in range(sweeps):
                met = descend_class_of(&columns, is_double, &coordinates, starts[k], starts[k + 1], &row)
                if sweep == 0:
                    worst = max(worst, met)
            end_class(&row, p + k * n, logit_changes + k * n, mean_changes, n)
    return worst
