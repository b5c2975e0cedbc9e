# Part of _kernels.pyx: sums over rows for a linear classifier, with each row of X read once.
#
# Rows are taken in tiles, few enough to stay in the cache: the logits of a tile, then what is asked for in the place of
# the logits, then its product with the rows.
#
# Not by BLAS, which is made for large matrices: with few classes it spends its time on packing X. Here 3 rows meet up
# to 4 classes (logits), or 3 vectors of features up to 4 classes (gradients): 12 sums in registers that do not wait for
# one another, and fewer loads than multiplications. With 32 registers it is 6 rows or vectors, and 24 sums.
#
# Steps over the sums are written out. GCC decides what is in registers before it unrolls a loop over a few of them, and
# an array with a variable index is in memory: everything took twice as long.
#
# Dense X: contiguous rows, or contiguous columns, which are transposed a tile at a time; coefficients (classes,
# features). Sparse X: CSR; coefficients (features, classes padded with zeros to whole vectors), so that an element of X
# meets the coefficients of all classes side by side.

cdef enum Task:
    LOSS            # loss, and the gradient of its sum
    PROBABILITIES   # probabilities = softmax of the logits
    HESSIAN_PRODUCT       # product of the Hessian with the coefficients, given the probabilities
    DIAGONAL        # of the Hessian, given the probabilities, if X holds squares; the coefficients do not matter

cdef enum:
    CACHE_LINE = 64
    PREFETCH_ELEMENTS = 8       # elements of a sparse row whose coefficients are fetched ahead
    FLUSH_ROWS = 512            # rows whose gradient is added up in the type of X before it goes to float64


ctypedef fused index_type:
    int32_t
    int64_t


cdef struct Linear:
    Batch batch                 # its logits are those of a tile
    Task task
    char* x                     # dense: the first element; sparse: all elements
    Py_ssize_t row_stride       # bytes; 0: sparse
    Py_ssize_t column_step      # bytes, where columns are contiguous; 0: rows are
    char* columns               # sparse: of each element
    char* row_starts            # sparse: places of the first elements of rows, and the end; of the type of `columns`
    bint long_index             # int64, not int32
    Py_ssize_t features
    Py_ssize_t n_coef_rows      # of coefficients: the classes, or 1 for two classes
    Py_ssize_t coef_width       # sparse: n_coef_rows in whole vectors
    char* coef
    double* intercept
    char* probabilities         # (rows, classes)
    double* row_weight
    Py_ssize_t tile_rows
    double* totals              # (blocks): sums of losses
    double* gradients           # (blocks, gradient_length), or NULL
    Py_ssize_t gradient_length
    char* sparse_gradients      # (blocks, features, coef_width) of X's type, `sparse_bytes` each
    Py_ssize_t sparse_bytes


cdef struct DenseRows:          # a tile of rows, or a slice of their features
    const char* x
    Py_ssize_t stride           # bytes
    Py_ssize_t count
    Py_ssize_t features
    Py_ssize_t ahead            # bytes from a row to what is fetched while it is used, or 0


cdef struct Elements:           # of a sparse row: first <= k < last; others of its tile follow, up to `end`
    Py_ssize_t first
    Py_ssize_t last
    Py_ssize_t end


cdef struct LinearScratch:      # of one thread, in the type of X
    double* sums                # a dense gradient, rows padded to whole vectors
    double* tile                # logits (tile_rows, classes), then one row padded to whole vectors
    double* rows                # transposed rows
    double* rest                # for the loss


cdef inline vec* from_element(vec* row, Py_ssize_t i) noexcept nogil:
    return <vec*>element(row, i)


cdef inline double add_lanes_of(vec x) noexcept nogil:
    if vec is vf32:
        return xent_add_lanes_f32(x)
    else:
        return xent_add_lanes_f64(x)


cdef inline forced_void clear_products(vec* sums, const int C) noexcept nogil:
    sums[0] = fill(sums, 0)
    if C > 1:
        sums[1] = fill(sums, 0)
    if C > 2:
        sums[2] = fill(sums, 0)
    if C > 3:
        sums[3] = fill(sums, 0)


cdef inline forced_void load_classes(
    const vec* coef, Py_ssize_t n, Py_ssize_t d, const int C, vec* w
) noexcept nogil:
    """w[c] = coef[c, d:], for coefficients of shape (C, n)"""
    w[0] = element(coef, d)[0]
    if C > 1:
        w[1] = element(coef, n + d)[0]
    if C > 2:
        w[2] = element(coef, 2 * n + d)[0]
    if C > 3:
        w[3] = element(coef, 3 * n + d)[0]


cdef inline forced_void load_last_of_classes(
    const vec* coef, Py_ssize_t n, Py_ssize_t d, const int C, vec* w
) noexcept nogil:
    """The same for the last n - d elements, fewer than a vector."""
    w[0] = load_first(element(coef, d), n - d, 0)
    if C > 1:
        w[1] = load_first(element(coef, n + d), n - d, 0)
    if C > 2:
        w[2] = load_first(element(coef, 2 * n + d), n - d, 0)
    if C > 3:
        w[3] = load_first(element(coef, 3 * n + d), n - d, 0)


cdef inline forced_void add_multiples_of(vec* sums, vec x, const vec* w, const int C) noexcept nogil:
    """sums[c] += x w[c]"""
    sums[0] = multiply_add(x, w[0], sums[0])
    if C > 1:
        sums[1] = multiply_add(x, w[1], sums[1])
    if C > 2:
        sums[2] = multiply_add(x, w[2], sums[2])
    if C > 3:
        sums[3] = multiply_add(x, w[3], sums[3])


cdef inline forced_void put_logits(const vec* sums, const double* intercept, vec* z, const int C) noexcept nogil:
    """z[c] = the sum of the lanes of sums[c], plus intercept[c]"""
    if C == 4:
        if vec is vf32:
            xent_add_four_f32(sums, intercept, z)
        else:
            xent_add_four_f64(sums, intercept, z)
        return
    put(z, 0, add_lanes_of(sums[0]) + intercept[0])
    if C > 1:
        put(z, 1, add_lanes_of(sums[1]) + intercept[1])
    if C > 2:
        put(z, 2, add_lanes_of(sums[2]) + intercept[2])


cdef inline forced_void logits_tile(
    const DenseRows* rows, Py_ssize_t i, const vec* coef, const double* intercept, vec* z, Py_ssize_t classes,
    const int R, const int C
) noexcept nogil:
    """z[r, c] = x[i + r] . coef[c] + intercept[c] for R rows (1, 3 or 6) and C classes."""
    cdef Py_ssize_t stride = rows.stride, n = rows.features, d = 0
    cdef const char* x = rows.x + i * stride
    cdef const char* later = x + 3 * stride
    cdef vec sums[24]
    cdef vec w[4]
    z = from_element(z, i * classes)
    clear_products(sums, C)
    if R > 1:
        clear_products(sums + C, C)
        clear_products(sums + 2 * C, C)
    if R > 3:
        clear_products(sums + 3 * C, C)
        clear_products(sums + 4 * C, C)
        clear_products(sums + 5 * C, C)
    while d + lanes(coef) <= n:
        load_classes(coef, n, d, C, w)
        add_multiples_of(sums, element(<const vec*>x, d)[0], w, C)
        if R > 1:
            add_multiples_of(sums + C, element(<const vec*>(x + stride), d)[0], w, C)
            add_multiples_of(sums + 2 * C, element(<const vec*>(x + 2 * stride), d)[0], w, C)
        if R > 3:
            add_multiples_of(sums + 3 * C, element(<const vec*>later, d)[0], w, C)
            add_multiples_of(sums + 4 * C, element(<const vec*>(later + stride), d)[0], w, C)
            add_multiples_of(sums + 5 * C, element(<const vec*>(later + 2 * stride), d)[0], w, C)
        d += lanes(coef)
    if d < n:
        load_last_of_classes(coef, n, d, C, w)
        add_multiples_of(sums, load_first(element(<const vec*>x, d), n - d, 0), w, C)
        if R > 1:
            add_multiples_of(sums + C, load_first(element(<const vec*>(x + stride), d), n - d, 0), w, C)
            add_multiples_of(sums + 2 * C, load_first(element(<const vec*>(x + 2 * stride), d), n - d, 0), w, C)
        if R > 3:
            add_multiples_of(sums + 3 * C, load_first(element(<const vec*>later, d), n - d, 0), w, C)
            add_multiples_of(sums + 4 * C, load_first(element(<const vec*>(later + stride), d), n - d, 0), w, C)
            add_multiples_of(sums + 5 * C, load_first(element(<const vec*>(later + 2 * stride), d), n - d, 0), w, C)
    put_logits(sums, intercept, z, C)
    if R > 1:
        put_logits(sums + C, intercept, from_element(z, classes), C)
        put_logits(sums + 2 * C, intercept, from_element(z, 2 * classes), C)
    if R > 3:
        put_logits(sums + 3 * C, intercept, from_element(z, 3 * classes), C)
        put_logits(sums + 4 * C, intercept, from_element(z, 4 * classes), C)
        put_logits(sums + 5 * C, intercept, from_element(z, 5 * classes), C)


cdef inline forced_void logits_of_classes(
    const DenseRows* rows, const vec* coef, const double* intercept, vec* z, Py_ssize_t classes, const int C
) noexcept nogil:
    cdef Py_ssize_t i = 0
    if XENT_HAS_32:
        while i + 6 <= rows.count:
            logits_tile(rows, i, coef, intercept, z, classes, 6, C)
            i += 6
    while i + 3 <= rows.count:
        logits_tile(rows, i, coef, intercept, z, classes, 3, C)
        i += 3
    while i < rows.count:
        logits_tile(rows, i, coef, intercept, z, classes, 1, C)
        i += 1


cdef void dense_logits(
    const Linear* linear, const DenseRows* rows, const vec* coef, vec* z, Py_ssize_t classes
) noexcept nogil:
    """z = the logits of the rows, `classes` elements apart. Classes in groups of about equal size, at most four."""
    cdef Py_ssize_t j = 0, groups = (linear.n_coef_rows + 3) // 4, C, g
    cdef const vec* w
    cdef const double* b
    cdef vec* out
    for g in range(groups):
        C = (linear.n_coef_rows - j) // (groups - g)
        w, b, out = element(coef, j * rows.features), linear.intercept + j, from_element(z, j)
        if C == 4:
            logits_of_classes(rows, w, b, out, classes, 4)
        elif C == 3:
            logits_of_classes(rows, w, b, out, classes, 3)
        elif C == 2:
            logits_of_classes(rows, w, b, out, classes, 2)
        else:
            logits_of_classes(rows, w, b, out, classes, 1)
        j += C


cdef inline forced_void copy_vectors(vec* out, const vec* source, const int V) noexcept nogil:
    """out = source, V vectors (1, 3 or 6)"""
    out[0] = source[0]
    if V > 1:
        out[1] = source[1]
        out[2] = source[2]
    if V > 3:
        out[3] = source[3]
        out[4] = source[4]
        out[5] = source[5]


cdef inline forced_void add_scaled(vec* sums, vec factor, const vec* row, const int V) noexcept nogil:
    """sums += factor row, V vectors each"""
    sums[0] = multiply_add(row[0], factor, sums[0])
    if V > 1:
        sums[1] = multiply_add(row[1], factor, sums[1])
        sums[2] = multiply_add(row[2], factor, sums[2])
    if V > 3:
        sums[3] = multiply_add(row[3], factor, sums[3])
        sums[4] = multiply_add(row[4], factor, sums[4])
        sums[5] = multiply_add(row[5], factor, sums[5])


cdef inline forced_void gradient_tile(
    const DenseRows* rows, const vec* logit_grad, Py_ssize_t classes, vec* gradient, Py_ssize_t width, Py_ssize_t tail,
    const int V, const int C
) noexcept nogil:
    """gradient[c] += sum of logit_grad[i, c] x[i] over the rows, for C classes and V vectors of features (1, 3 or 6);
    with a tail, one vector, of which only so many."""
    cdef const char* x = rows.x
    cdef Py_ssize_t i, v
    cdef vec sums[24]
    cdef vec row[6]
    copy_vectors(sums, gradient, V)
    if C > 1:
        copy_vectors(sums + V, element(gradient, width), V)
    if C > 2:
        copy_vectors(sums + 2 * V, element(gradient, 2 * width), V)
    if C > 3:
        copy_vectors(sums + 3 * V, element(gradient, 3 * width), V)
    for i in range(rows.count):
        if tail:
            row[0] = load_first(<const vec*>x, tail, 0)
        else:
            copy_vectors(row, <const vec*>x, V)
        if rows.ahead:
            for v in range(V * <int>sizeof(vec) // CACHE_LINE + 1):
                xent_prefetch(x + rows.ahead + v * CACHE_LINE)
        add_scaled(sums, fill(logit_grad, get(logit_grad, 0)), row, V)
        if C > 1:
            add_scaled(sums + V, fill(logit_grad, get(logit_grad, 1)), row, V)
        if C > 2:
            add_scaled(sums + 2 * V, fill(logit_grad, get(logit_grad, 2)), row, V)
        if C > 3:
            add_scaled(sums + 3 * V, fill(logit_grad, get(logit_grad, 3)), row, V)
        x += rows.stride
        logit_grad = element(logit_grad, classes)
    copy_vectors(gradient, sums, V)
    if C > 1:
        copy_vectors(from_element(gradient, width), sums + V, V)
    if C > 2:
        copy_vectors(from_element(gradient, 2 * width), sums + 2 * V, V)
    if C > 3:
        copy_vectors(from_element(gradient, 3 * width), sums + 3 * V, V)


cdef inline forced_void gradient_of_classes(
    const Linear* linear, DenseRows rows, const vec* logit_grad, vec* gradient, Py_ssize_t width, Py_ssize_t tail,
    const int V
) noexcept nogil:
    cdef Py_ssize_t j = 0, classes = linear.batch.logits.n, groups = (linear.n_coef_rows + 3) // 4, C, g
    cdef vec* out
    cdef const vec* s
    for g in range(groups):
        C = (linear.n_coef_rows - j) // (groups - g)
        out, s = from_element(gradient, j * width), element(logit_grad, j)
        if C == 4:
            gradient_tile(&rows, s, classes, out, width, tail, V, 4)
        elif C == 3:
            gradient_tile(&rows, s, classes, out, width, tail, V, 3)
        elif C == 2:
            gradient_tile(&rows, s, classes, out, width, tail, V, 2)
        else:
            gradient_tile(&rows, s, classes, out, width, tail, V, 1)
        rows.ahead = 0      # the first group has fetched it
        j += C


cdef void add_dense_gradient(
    const Linear* linear, const DenseRows* rows, const vec* logit_grad, vec* gradient, Py_ssize_t width
) noexcept nogil:
    """gradient (n_coef_rows, width) += logit_grad' x, a few vectors of features at a time."""
    cdef DenseRows slice = rows[0]
    cdef Py_ssize_t d = 0, n = rows.features, L = lanes(logit_grad)
    slice.ahead = linear.tile_rows * rows.stride
    if XENT_HAS_32:
        while d + 6 * L <= n:
            slice.x = <const char*>element(<const vec*>rows.x, d)
            gradient_of_classes(linear, slice, logit_grad, from_element(gradient, d), width, 0, 6)
            d += 6 * L
    while d + 3 * L <= n:
        slice.x = <const char*>element(<const vec*>rows.x, d)
        gradient_of_classes(linear, slice, logit_grad, from_element(gradient, d), width, 0, 3)
        d += 3 * L
    slice.ahead = 0
    while d + L <= n:
        slice.x = <const char*>element(<const vec*>rows.x, d)
        gradient_of_classes(linear, slice, logit_grad, from_element(gradient, d), width, 0, 1)
        d += L
    if d < n:
        slice.x = <const char*>element(<const vec*>rows.x, d)
        gradient_of_classes(linear, slice, logit_grad, from_element(gradient, d), width, n - d, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Sparse rows
# ---------------------------------------------------------------------------------------------------------------------

cdef inline void fetch(const vec* row, Py_ssize_t vectors) noexcept nogil:
    cdef const char* line = <const char*>row
    while line < <const char*>(row + vectors):
        xent_prefetch(line)
        line += CACHE_LINE


cdef inline void sparse_logits_of(
    const vec* x, const index_type* columns, const Elements* elements, const vec* coef, Py_ssize_t width, vec* out,
    const int V
) noexcept nogil:
    """out = the logits of a row, of V vectors of classes."""
    cdef vec sums[4]
    cdef vec value
    cdef const vec* w
    cdef Py_ssize_t k, end = elements.end
    cdef int v
    for v in range(V):
        sums[v] = fill(x, 0)
    for k in range(elements.first, elements.last):
        value = fill(x, get(x, k))
        w = element(coef, columns[k] * width)
        fetch(element(coef, columns[min(k + PREFETCH_ELEMENTS, end - 1)] * width), V)
        for v in range(V):
            sums[v] = multiply_add(value, w[v], sums[v])
    for v in range(V):
        out[v] = sums[v]


cdef void sparse_logits(
    const Linear* linear, const index_type* columns, vec* z, Py_ssize_t classes, vec* row, Py_ssize_t first,
    Py_ssize_t count
) noexcept nogil:
    """z = the logits of `count` rows, `classes` elements apart; `row` holds those of one, padded to whole vectors."""
    cdef const index_type* starts = <const index_type*>linear.row_starts
    cdef const vec* x = <const vec*>linear.x
    cdef const vec* coef = <const vec*>linear.coef
    cdef Py_ssize_t i, j, v, width = linear.coef_width, V = width // lanes(z)
    cdef Elements elements
    elements.end = starts[first + count]
    for i in range(first, first + count):
        elements.first, elements.last = starts[i], starts[i + 1]
        for v in range(0, V, 4):
            if V - v >= 4:
                sparse_logits_of(x, columns, &elements, coef + v, width, row + v, 4)
            elif V - v == 3:
                sparse_logits_of(x, columns, &elements, coef + v, width, row + v, 3)
            elif V - v == 2:
                sparse_logits_of(x, columns, &elements, coef + v, width, row + v, 2)
            else:
                sparse_logits_of(x, columns, &elements, coef + v, width, row + v, 1)
        for j in range(linear.n_coef_rows):
            put(z, (i - first) * classes + j, get(row, j) + linear.intercept[j])


cdef void add_sparse_gradient(
    const Linear* linear, const index_type* columns, const vec* logit_grad, vec* row, Py_ssize_t first,
    Py_ssize_t count, vec* gradient
) noexcept nogil:
    """gradient (features, coef_width) += x' logit_grad; `row` as in `sparse_logits`."""
    cdef const index_type* starts = <const index_type*>linear.row_starts
    cdef Py_ssize_t classes = linear.batch.logits.n, width = linear.coef_width, V = width // lanes(logit_grad)
    cdef Py_ssize_t i, j, k, v, end = starts[first + count]
    cdef vec value
    cdef vec* out
    for j in range(V):
        row[j] = fill(logit_grad, 0)
    for i in range(first, first + count):
        for j in range(linear.n_coef_rows):
            put(row, j, get(logit_grad, (i - first) * classes + j))
        for k in range(<Py_ssize_t>starts[i], <Py_ssize_t>starts[i + 1]):
            value = fill(logit_grad, get(<const vec*>linear.x, k))
            out = from_element(gradient, columns[min(k + PREFETCH_ELEMENTS, end - 1)] * width)
            fetch(<const vec*>out, V)
            out = from_element(gradient, columns[k] * width)
            for v in range(V):
                out[v] = multiply_add(value, row[v], out[v])


# ---------------------------------------------------------------------------------------------------------------------
# Dual ascent over sparse rows: see _fit/dual_ascent.py
# ---------------------------------------------------------------------------------------------------------------------

cdef void fetch_row(const Linear* linear, const index_type* columns, const vec* coef, Py_ssize_t i) noexcept nogil:
    """Bring the elements of sparse row i, which is next, and its first coefficients into the cache."""
    cdef const index_type* starts = <const index_type*>linear.row_starts
    cdef const vec* x = element(<const vec*>linear.x, starts[i])
    cdef Py_ssize_t k, n = starts[i + 1] - starts[i]
    fetch(x, n // lanes(x) + 1)
    fetch(<const vec*>(columns + starts[i]), n * <Py_ssize_t>sizeof(index_type) // <Py_ssize_t>sizeof(vec) + 1)
    for k in range(min(n, PREFETCH_ELEMENTS)):
        fetch(element(coef, columns[starts[i] + k] * linear.coef_width), linear.coef_width // lanes(x))


cdef double ascend_rows(
    const Linear* linear, const index_type* columns, vec* scratch, double strength, Py_ssize_t count, Py_ssize_t stride
) noexcept nogil:
    """One sweep of dual ascent over `count` rows, in steps of `stride`.

    Each row's probabilities move towards the softmax of its logits, by the share that the curvature of its loss allows,
    and the coefficients follow at once:

        p += share (softmax(W x + b) - p)        W -= weight / strength * (change of p) x'
        share = 1 / (1 + bound * weight / strength * |x|^2), bound: of the eigenvalues of the Hessian in the logits

    scratch: three rows of logits, padded to whole vectors. Returns the sum of weight |change of p|^2.
    """
    cdef const index_type* starts = <const index_type*>linear.row_starts
    cdef Py_ssize_t classes = linear.batch.logits.n, offset = classes - linear.n_coef_rows
    cdef Py_ssize_t padded = (classes + lanes(scratch) - 1) // lanes(scratch), i = 0, j, k, iteration
    cdef vec* z = scratch
    cdef vec* target = scratch + padded
    cdef vec* row = scratch + 2 * padded
    cdef vec* coef = <vec*>linear.coef
    cdef vec* p
    cdef double bound = 0.25 if offset else 0.5
    cdef double square, pull, share, change, moved = 0
    cdef Peak peak
    cdef Finish how
    cdef Traffic traffic = no_traffic(scratch)
    for iteration in range(count):
        p = from_element(<vec*>linear.probabilities, i * classes)
        pull = linear.row_weight[i] / strength
        square = 0
        for k in range(<Py_ssize_t>starts[i], <Py_ssize_t>starts[i + 1]):
            square += get(<const vec*>linear.x, k) * get(<const vec*>linear.x, k)
        share = 1 / (1 + bound * pull * square)
        if offset:
            put(z, 0, 0)
        sparse_logits(linear, columns, from_element(z, offset), classes, row, i, 1)
        fetch_row(linear, columns, coef, (i + stride) % count)
        peak = find_peak_of(z, classes, False)
        how = softmax_row(z, target, classes, &peak, &traffic, <vec*>NULL)
        send(&traffic, target, target, classes, False, &how)
        finish(&traffic, 0, target)
        for j in range(classes):
            change = share * (get(target, j) - get(p, j))
            put(p, j, get(p, j) + change)
            put(z, j, -pull * change)
            moved += linear.row_weight[i] * change * change
        add_sparse_gradient(linear, columns, from_element(z, offset), row, i, 1, coef)
        i = (i + stride) % count
    return moved


# ---------------------------------------------------------------------------------------------------------------------
# A block of rows, tile by tile
# ---------------------------------------------------------------------------------------------------------------------

cdef void move_to(Operand* operand, char* base, Py_ssize_t i) noexcept nogil:
    """Make row i of what begins at `base` the first."""
    operand.data = base + (i * operand.strides[0] if operand.ndim else 0)


cdef void apply_softmax_hessian(
    const Linear* linear, vec* change, const vec* p, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """A change of the logits becomes that of their gradient: weight p (change - p . change)."""
    cdef Py_ssize_t classes = linear.batch.logits.n, offset = classes - linear.n_coef_rows, i, j
    cdef double mean
    for i in range(count):
        mean = 0
        for j in range(linear.n_coef_rows):
            mean += get(p, i * classes + offset + j) * get(change, i * classes + offset + j)
        if offset:      # two classes, of which the first has logit 0: without a difference that cancels
            put(change, 2 * i + 1, linear.row_weight[first + i] * get(p, 2 * i) * mean)
        else:
            for j in range(classes):
                put(
                    change, i * classes + j,
                    linear.row_weight[first + i] * get(p, i * classes + j) * (get(change, i * classes + j) - mean)
                )


cdef void softmax_variance(
    const Linear* linear, vec* out, const vec* p, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """out = weight p (1 - p)."""
    cdef Py_ssize_t classes = linear.batch.logits.n, i, j
    for i in range(count):
        for j in range(classes):
            put(
                out, i * classes + j,
                linear.row_weight[first + i] * get(p, i * classes + j) * (1 - get(p, i * classes + j))
            )


cdef DenseRows dense_rows(const Linear* linear, Py_ssize_t first, Py_ssize_t count, vec* scratch) noexcept nogil:
    """A tile of rows: where they are, or transposed into the scratch."""
    cdef DenseRows rows
    rows.count, rows.features, rows.ahead = count, linear.features, 0
    rows.x, rows.stride = linear.x + first * linear.row_stride, linear.row_stride
    if linear.column_step:
        rows.stride = row_length(linear) * sizeof(vec) // lanes(scratch)
        if vec is vf32:
            xent_transpose_rows_f32(
                <char*>rows.x, linear.column_step, scratch, rows.stride, linear.features, count, False
            )
        else:
            xent_transpose_rows_f64(
                <char*>rows.x, linear.column_step, scratch, rows.stride, linear.features, count, False
            )
        rows.x = <const char*>scratch
    return rows


cdef void logits_of_rows(
    const Linear* linear, const DenseRows* rows, vec* tile, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """tile = the logits; of two classes with one row of coefficients, the first has 0."""
    cdef Py_ssize_t classes = linear.batch.logits.n, offset = classes - linear.n_coef_rows, i
    cdef vec* z = from_element(tile, offset)
    cdef vec* row = from_element(tile, linear.tile_rows * classes)
    if offset:
        for i in range(count):
            put(tile, 2 * i, 0)
    if linear.row_stride:
        dense_logits(linear, rows, <const vec*>linear.coef, z, classes)
    elif linear.long_index:
        sparse_logits(linear, <const int64_t*>linear.columns, z, classes, row, first, count)
    else:
        sparse_logits(linear, <const int32_t*>linear.columns, z, classes, row, first, count)


cdef void add_gradient(
    const Linear* linear, const DenseRows* rows, vec* tile, vec* sums, vec* sparse_gradient, Py_ssize_t first,
    Py_ssize_t count
) noexcept nogil:
    """What the gradient of the logits, in the tile, makes of that of the coefficients, without intercepts."""
    cdef Py_ssize_t classes = linear.batch.logits.n
    cdef vec* logit_grad = from_element(tile, classes - linear.n_coef_rows)
    cdef vec* row = from_element(tile, linear.tile_rows * classes)
    if linear.row_stride:
        add_dense_gradient(linear, rows, logit_grad, sums, padded_features(linear, tile))
    elif linear.long_index:
        add_sparse_gradient(linear, <const int64_t*>linear.columns, logit_grad, row, first, count, sparse_gradient)
    else:
        add_sparse_gradient(linear, <const int32_t*>linear.columns, logit_grad, row, first, count, sparse_gradient)


cdef void add_intercept_gradient(
    const Linear* linear, const vec* tile, double* gradient, Py_ssize_t count
) noexcept nogil:
    """The same for the intercepts: the last column of a dense gradient, or all of `gradient` if X is sparse."""
    cdef Py_ssize_t classes = linear.batch.logits.n, offset = classes - linear.n_coef_rows, i, j
    cdef double* sum
    for j in range(linear.n_coef_rows):
        sum = gradient + (j * (linear.features + 1) + linear.features if linear.row_stride else j)
        for i in range(count):
            sum[0] += get(tile, i * classes + offset + j)


cdef void flush_sums(const Linear* linear, vec* sums, double* gradient) noexcept nogil:
    """Add a dense gradient in the type of X to that in float64, and set it to 0."""
    cdef Py_ssize_t width = padded_features(linear, sums), j, d
    for j in range(linear.n_coef_rows):
        for d in range(linear.features):
            gradient[j * (linear.features + 1) + d] += get(sums, j * width + d)
            put(sums, j * width + d, 0)


cdef double linear_block(
    const Linear* linear, const LinearScratch* scratch, const vec* like, double* gradient, vec* sparse_gradient,
    Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Rows first <= i < last: gradients += theirs; returns the sum of their losses.

    gradient, in float64: (n_coef_rows, features + 1) with the intercepts last or, if X is sparse, the intercepts.
    """
    cdef Batch batch = linear.batch
    cdef LossScratch loss_scratch
    cdef SoftmaxTask softmax
    cdef DenseRows rows
    cdef Py_ssize_t classes = batch.logits.n, i = first, count, unflushed = 0
    cdef vec* tile = <vec*>scratch.tile
    cdef vec* sums = <vec*>scratch.sums
    cdef vec* rest = <vec*>scratch.rest
    cdef const vec* p = NULL
    cdef double total = 0
    lay_out_loss(&batch, scratch.rest, &loss_scratch)
    while i < last:
        count = min(linear.tile_rows, last - i)
        if linear.probabilities is not NULL:
            p = element(<const vec*>linear.probabilities, i * classes)
        if linear.row_stride:
            rows = dense_rows(linear, i, count, <vec*>scratch.rows)
        if linear.task == DIAGONAL:
            softmax_variance(linear, tile, p, i, count)
        else:
            logits_of_rows(linear, &rows, tile, i, count)
        if linear.task == LOSS:
            move_to(&batch.target, linear.batch.target.data, i)
            move_to(&batch.sample_weight, linear.batch.sample_weight.data, i)
            total += cross_entropy_block(&batch, &loss_scratch, 0, count, rest)
        elif linear.task == HESSIAN_PRODUCT:
            apply_softmax_hessian(linear, tile, p, i, count)
        elif linear.task == PROBABILITIES:
            softmax.x = softmax.out = batch.logits
            softmax.where = batch.where
            softmax.out.data = <char*>p
            softmax.logarithm, softmax.piece = False, classes
            softmax_block(&softmax, 0, count, rest)
            i += count
            continue
        add_gradient(linear, &rows, tile, sums, sparse_gradient, i, count)
        add_intercept_gradient(linear, tile, gradient, count)
        i += count
        unflushed += count
        if linear.row_stride and (unflushed >= FLUSH_ROWS or i == last):
            flush_sums(linear, sums, gradient)
            unflushed = 0
    return total


def add_each_exactly(sums, x):
    """sums[i] += x[i], or all of x[i, :], for contiguous float64 sums of three numbers each."""
    cdef Py_ssize_t n = cnp.PyArray_DIM(<cnp.ndarray>sums, 0), i, j
    cdef Py_ssize_t several = cnp.PyArray_SIZE(<cnp.ndarray>x) // max(n, 1)
    cdef Sum* total = <Sum*>cnp.PyArray_DATA(<cnp.ndarray>sums)
    cdef const double* more = <const double*>cnp.PyArray_DATA(<cnp.ndarray>x)
    with nogil:
        for i in range(n):
            for j in range(several):
                add_exactly(&total[i], more[i * several + j])


def lanes_of(Py_ssize_t itemsize):
    """Elements of that size in a vector."""
    return XENT_LANES_f32 if itemsize == 4 else XENT_LANES_f64


cdef int bind_operands(Linear* linear, operands) except -1:
    """operands: LinearOperands of _fit/row_pass.py."""
    X, coef, probabilities = operands.X, operands.coef, operands.probabilities
    linear.n_coef_rows = cnp.PyArray_DIM(<cnp.ndarray>operands.intercept, 0)
    linear.coef = <char*>cnp.PyArray_DATA(<cnp.ndarray>coef)
    linear.intercept = <double*>cnp.PyArray_DATA(<cnp.ndarray>operands.intercept)
    linear.row_weight = <double*>cnp.PyArray_DATA(<cnp.ndarray>operands.row_weight)
    linear.probabilities = NULL
    if probabilities is not None:
        linear.probabilities = <char*>cnp.PyArray_DATA(<cnp.ndarray>probabilities)
    linear.columns = linear.row_starts = NULL
    linear.row_stride = linear.column_step = linear.coef_width = 0
    linear.long_index = False
    if type(X) is tuple:
        linear.x = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[0])
        linear.columns = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[1])
        linear.row_starts = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[2])
        linear.long_index = cnp.PyArray_ITEMSIZE(<cnp.ndarray>X[1]) == 8
        linear.features = cnp.PyArray_DIM(<cnp.ndarray>coef, 0)
        linear.coef_width = cnp.PyArray_DIM(<cnp.ndarray>coef, 1)
        return 0
    linear.x = <char*>cnp.PyArray_DATA(<cnp.ndarray>X)
    linear.features = cnp.PyArray_DIM(<cnp.ndarray>X, 1)
    linear.row_stride = cnp.PyArray_STRIDE(<cnp.ndarray>X, 0)
    if cnp.PyArray_STRIDE(<cnp.ndarray>X, 1) != cnp.PyArray_ITEMSIZE(<cnp.ndarray>X):
        linear.column_step = cnp.PyArray_STRIDE(<cnp.ndarray>X, 1)
    return 0


cdef int bind_sums(Linear* linear, sums, Work work) except -1:
    """sums: LinearSums of _fit/row_pass.py."""
    cdef Py_ssize_t length = linear.n_coef_rows
    linear.totals = data_of_blocks(sums.totals, work, 1)
    linear.gradients = NULL
    linear.sparse_gradients = NULL
    linear.gradient_length = linear.sparse_bytes = 0
    if sums.gradients is not None:
        if sums.sparse_gradients is None:
            length *= linear.features + 1
        linear.gradients = data_of_blocks(sums.gradients, work, length)
        linear.gradient_length = cnp.PyArray_STRIDE(<cnp.ndarray>sums.gradients, 0) // sizeof(double)
    if sums.sparse_gradients is not None:
        length = linear.features * linear.coef_width
        linear.sparse_gradients = <char*>data_of_blocks(sums.sparse_gradients, work, length)
        linear.sparse_bytes = cnp.PyArray_STRIDE(<cnp.ndarray>sums.sparse_gradients, 0)
    return 0


def dual_sweep(operands, double strength, scratch, Py_ssize_t stride):
    """A sweep of dual ascent over the rows of CSR, which changes the probabilities and the coefficients."""
    cdef Linear linear
    cdef char* rows = <char*>cnp.PyArray_DATA(<cnp.ndarray>scratch)
    cdef Py_ssize_t count = cnp.PyArray_DIM(<cnp.ndarray>operands.row_weight, 0)
    cdef double moved
    bind(&linear.batch.logits, operands.probabilities, 1)      # for their number and type
    bind_operands(&linear, operands)
    with nogil:
        if linear.batch.logits.kind != F64 and linear.long_index:
            moved = ascend_rows(&linear, <const int64_t*>linear.columns, <vf32*>rows, strength, count, stride)
        elif linear.batch.logits.kind != F64:
            moved = ascend_rows(&linear, <const int32_t*>linear.columns, <vf32*>rows, strength, count, stride)
        elif linear.long_index:
            moved = ascend_rows(&linear, <const int64_t*>linear.columns, <vf64*>rows, strength, count, stride)
        else:
            moved = ascend_rows(&linear, <const int32_t*>linear.columns, <vf64*>rows, strength, count, stride)
    return moved


cdef void linear_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef Linear linear = (<const Linear*>task)[0]
    cdef Py_ssize_t i
    cdef LinearScratch parts
    cdef double* gradient
    cdef char* sparse_gradient
    parts.sums = scratch
    parts.tile = parts.sums + sums_length(&linear)
    parts.rows = parts.tile + tile_length(&linear)
    parts.rest = parts.rows + rows_length(&linear)
    linear.batch.logits.data = linear.batch.grad.data = <char*>parts.tile
    for i in range(sums_length(&linear)):
        parts.sums[i] = 0
    while next_block(claim):
        gradient = linear.gradients + claim.block * linear.gradient_length
        sparse_gradient = linear.sparse_gradients + claim.block * linear.sparse_bytes
        if linear.batch.logits.kind != F64:
            linear.totals[claim.block] = linear_block(
                &linear, &parts, <const vf32*>scratch, gradient, <vf32*>sparse_gradient, claim.first, claim.last
            )
        else:
            linear.totals[claim.block] = linear_block(
                &linear, &parts, <const vf64*>scratch, gradient, <vf64*>sparse_gradient, claim.first, claim.last
            )


# Lengths of a thread's scratch, in float64 numbers.

cdef Py_ssize_t row_length(const Linear* linear) noexcept nogil:
    """Of a dense row, in whole cache lines whatever its type."""
    return (linear.features + 2 * LINE_DOUBLES - 1) // (2 * LINE_DOUBLES) * (2 * LINE_DOUBLES)


cdef Py_ssize_t sums_length(const Linear* linear) noexcept nogil:
    return linear.n_coef_rows * (row_length(linear) + LINE_DOUBLES) if linear.row_stride else 0


cdef Py_ssize_t tile_length(const Linear* linear) noexcept nogil:
    return ((linear.tile_rows + 1) * linear.batch.logits.n // LINE_DOUBLES + 3) * LINE_DOUBLES


cdef Py_ssize_t rows_length(const Linear* linear) noexcept nogil:
    return linear.tile_rows * row_length(linear) if linear.column_step else 0


cdef Py_ssize_t padded_features(const Linear* linear, const vec* like) noexcept nogil:
    """Elements in a row of `sums`."""
    return (linear.features + lanes(like) - 1) // lanes(like) * lanes(like)


def linear_sums(problem, options, int task, operands, sums, Work work):
    """For each block i of rows: totals[i] of the sums = the sum of losses, gradients[i] += a gradient.

    problem.logits: of the shape and type of a tile; its elements are not used. Without gradients (task PROBABILITIES)
    only the probabilities are written.
    """
    cdef Linear linear
    bind_batch(&linear.batch, problem, options, 0)
    bind_operands(&linear, operands)
    bind_sums(&linear, sums, work)
    linear.batch.divisor = 1
    linear.batch.grad = linear.batch.logits
    linear.task = <Task>task
    linear.tile_rows = cnp.PyArray_DIM(<cnp.ndarray>problem.logits, 0)
    work.do(
        linear_worker, &linear,
        sums_length(&linear) + tile_length(&linear) + rows_length(&linear)
        + plan_batch(&linear.batch, work.job.threads) + 2 * tile_space(linear.batch.logits.n)
    )
