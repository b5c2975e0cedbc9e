# Part of _kernels.pyx: sums over rows for a linear classifier, one read of the rows each. A tile of rows, few enough to
# stay in the cache: their logits -> what is asked for, in the place of the logits -> its product with the rows.
#
# BLAS is made for large matrices: with few classes it spends its time on packing X. Here a register tile is 3 rows by up
# to 4 classes (logits) or 3 vectors of features by up to 4 classes (gradients): 12 sums that do not wait for one another,
# and fewer loads than multiplications.
#
# Dense rows: contiguous, or made so a tile at a time where columns are; coefficients (classes, features). Sparse rows:
# CSR, coefficients (features, width) with the classes padded with zeros to whole vectors, so that an element of X meets
# contiguous coefficients of all classes.

cdef enum Task:
    LOSS            # gradients of the loss; sums of it
    PROBABILITIES   # written to `kept`
    CURVATURE       # Hessian product, with `kept` the probabilities
    DIAGONAL        # of the Hessian, the same, if X holds squares; coefficients do not matter

cdef enum:
    CACHE_LINE = 64
    PREFETCH_ELEMENTS = 8        # elements of a sparse row whose coefficients are fetched ahead
    FLUSH_ROWS = 512     # rows whose gradient is added up in the type of X before it goes to float64


ctypedef fused index_type:
    int32_t
    int64_t


cdef struct Linear:
    Batch batch             # logits: the tile
    char* x                 # dense rows; or the elements of sparse ones, whose columns are `index`
    Py_ssize_t stride       # bytes from one row to the next; 0: sparse
    Py_ssize_t step         # and from one element of it to the next, if those are not side by side but rows are; or 0
    char* index
    char* start             # of each row among the elements, of the type of `index`
    bint wide_index
    Py_ssize_t features
    Py_ssize_t rows         # of coefficients: the classes, or 1 for two classes
    Py_ssize_t width        # of a row of sparse coefficients
    char* coef
    double* intercept
    char* kept
    double* mass
    Task task
    Py_ssize_t tile         # rows of a tile
    double* totals          # of each block
    double* gradients       # (or NULL) of each block
    Py_ssize_t gradient_step        # from one to the next
    char* sparse_gradients
    Py_ssize_t sparse_step  # bytes


cdef inline vec* from_element(vec* row, Py_ssize_t i) noexcept nogil:
    return <vec*>element(row, i)


cdef inline double add_lanes_of(vec x) noexcept nogil:
    if vec is vf32:
        return xent_add_lanes_f32(x)
    else:
        return xent_add_lanes_f64(x)


cdef inline void logits_tile(
    const char* x, Py_ssize_t stride, const vec* coef, const double* intercept, vec* z, Py_ssize_t n,
    Py_ssize_t classes, const int R, const int C
) noexcept nogil:
    """z[i, j] = x[i] . coef[j] + intercept[j] for R rows and C classes."""
    cdef vec sums[12]
    cdef vec rows[3]
    cdef vec w
    cdef int i, j
    cdef Py_ssize_t d = 0, whole = n - n % lanes(coef)
    for i in range(R):
        for j in range(C):
            sums[i * C + j] = fill(coef, 0)
    while d < whole:
        for i in range(R):
            rows[i] = element(<const vec*>(x + i * stride), d)[0]
        for j in range(C):
            w = element(coef, j * n + d)[0]
            for i in range(R):
                sums[i * C + j] = multiply_add(rows[i], w, sums[i * C + j])
        d += lanes(coef)
    if whole < n:
        for i in range(R):
            rows[i] = load_first(element(<const vec*>(x + i * stride), whole), n - whole, 0)
        for j in range(C):
            w = load_first(element(coef, j * n + whole), n - whole, 0)
            for i in range(R):
                sums[i * C + j] = multiply_add(rows[i], w, sums[i * C + j])
    for i in range(R):
        for j in range(C):
            put(z, i * classes + j, add_lanes_of(sums[i * C + j]) + intercept[j])


cdef inline void logits_of_classes(
    const char* x, Py_ssize_t stride, const vec* coef, const double* intercept, vec* z, Py_ssize_t n,
    Py_ssize_t classes, Py_ssize_t count, const int C
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(0, count - 2, 3):
        logits_tile(x + i * stride, stride, coef, intercept, from_element(z, i * classes), n, classes, 3, C)
    for i in range(count - count % 3, count):
        logits_tile(x + i * stride, stride, coef, intercept, from_element(z, i * classes), n, classes, 1, C)


cdef void dense_logits(
    const Linear* problem, const char* x, Py_ssize_t stride, const vec* coef, vec* z, Py_ssize_t classes,
    Py_ssize_t count
) noexcept nogil:
    """z = the logits of `count` rows, `classes` elements apart. Classes are done four at a time, or nearly."""
    cdef Py_ssize_t j = 0, n = problem.features, groups = (problem.rows + 3) // 4, C, g
    cdef const vec* w
    cdef const double* b
    cdef vec* out
    for g in range(groups):
        C = (problem.rows - j) // (groups - g)
        w, b, out = element(coef, j * n), problem.intercept + j, from_element(z, j)
        if C == 4:
            logits_of_classes(x, stride, w, b, out, n, classes, count, 4)
        elif C == 3:
            logits_of_classes(x, stride, w, b, out, n, classes, count, 3)
        elif C == 2:
            logits_of_classes(x, stride, w, b, out, n, classes, count, 2)
        else:
            logits_of_classes(x, stride, w, b, out, n, classes, count, 1)
        j += C


cdef inline void gradient_tile(
    const char* x, Py_ssize_t stride, const vec* slopes, Py_ssize_t classes, Py_ssize_t count, vec* gradient,
    Py_ssize_t width, Py_ssize_t tail, Py_ssize_t ahead, const int V, const int C
) noexcept nogil:
    """gradient[j] += sum of slopes[i, j] x[i] over rows i, for V vectors of features (with a tail: of one, so long).
    x + ahead is fetched meanwhile."""
    cdef vec sums[12]
    cdef vec row[3]
    cdef vec s
    cdef int j, v
    cdef Py_ssize_t i
    for j in range(C):
        for v in range(V):
            sums[j * V + v] = element(gradient, j * width)[v]
    for i in range(count):
        if tail:
            row[0] = load_first(<const vec*>(x + i * stride), tail, 0)
        else:
            for v in range(V):
                row[v] = (<const vec*>(x + i * stride))[v]
            if ahead:
                xent_prefetch(x + i * stride + ahead)
                xent_prefetch(x + i * stride + ahead + CACHE_LINE)
        for j in range(C):
            s = fill(slopes, get(slopes, i * classes + j))
            for v in range(V):
                sums[j * V + v] = multiply_add(row[v], s, sums[j * V + v])
    for j in range(C):
        for v in range(V):
            from_element(gradient, j * width)[v] = sums[j * V + v]


cdef inline void gradient_of_classes(
    const char* x, Py_ssize_t stride, const vec* slopes, Py_ssize_t classes, Py_ssize_t count, vec* gradient,
    Py_ssize_t width, Py_ssize_t tail, Py_ssize_t ahead, const int V, Py_ssize_t rows
) noexcept nogil:
    cdef Py_ssize_t j = 0, groups = (rows + 3) // 4, C, g
    cdef vec* out
    cdef const vec* s
    for g in range(groups):
        C = (rows - j) // (groups - g)
        out, s = from_element(gradient, j * width), element(slopes, j)
        if C == 4:
            gradient_tile(x, stride, s, classes, count, out, width, tail, ahead, V, 4)
        elif C == 3:
            gradient_tile(x, stride, s, classes, count, out, width, tail, ahead, V, 3)
        elif C == 2:
            gradient_tile(x, stride, s, classes, count, out, width, tail, ahead, V, 2)
        else:
            gradient_tile(x, stride, s, classes, count, out, width, tail, ahead, V, 1)
        ahead = 0
        j += C


cdef void add_dense_gradient(
    const Linear* problem, const char* x, Py_ssize_t stride, const vec* slopes, Py_ssize_t classes, Py_ssize_t count,
    vec* gradient, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t d = 0, n = problem.features, L = lanes(slopes)
    while d + 3 * L <= n:
        gradient_of_classes(
            <const char*>element(<const vec*>x, d), stride, slopes, classes, count, from_element(gradient, d), width,
            0, problem.tile * stride, 3, problem.rows
        )
        d += 3 * L
    while d + L <= n:
        gradient_of_classes(
            <const char*>element(<const vec*>x, d), stride, slopes, classes, count, from_element(gradient, d), width,
            0, 0, 1, problem.rows
        )
        d += L
    if d < n:
        gradient_of_classes(
            <const char*>element(<const vec*>x, d), stride, slopes, classes, count, from_element(gradient, d), width,
            n - d, 0, 1, problem.rows
        )


# ---------------------------------------------------------------------------------------------------------------------
# Sparse rows
# ---------------------------------------------------------------------------------------------------------------------

cdef inline void fetch(const vec* row, Py_ssize_t vectors) noexcept nogil:
    cdef const char* line = <const char*>row
    while line < <const char*>(row + vectors):
        xent_prefetch(line)
        line += CACHE_LINE


cdef inline void sparse_logits_of(
    const vec* x, const index_type* column, Py_ssize_t first, Py_ssize_t last, Py_ssize_t end, const vec* coef,
    Py_ssize_t width, vec* out, const int V
) noexcept nogil:
    """Of elements first <= k < last, which those up to `end` come after."""
    cdef vec sums[4]
    cdef vec value
    cdef const vec* w
    cdef Py_ssize_t k
    cdef int v
    for v in range(V):
        sums[v] = fill(x, 0)
    for k in range(first, last):
        value = fill(x, get(x, k))
        w = element(coef, column[k] * width)
        fetch(element(coef, column[min(k + PREFETCH_ELEMENTS, end - 1)] * width), V)
        for v in range(V):
            sums[v] = multiply_add(value, w[v], sums[v])
    for v in range(V):
        out[v] = sums[v]


cdef void sparse_logits(
    const Linear* problem, const index_type* column, const vec* coef, vec* z, Py_ssize_t classes, vec* row,
    Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """The same of sparse rows; `row` holds one padded row of logits."""
    cdef const index_type* start = <const index_type*>problem.start
    cdef Py_ssize_t i, j, v, V = problem.width // lanes(z), k, last, end = start[first + count]
    cdef const vec* x = <const vec*>problem.x
    for i in range(first, first + count):
        k, last = start[i], start[i + 1]
        for v in range(0, V, 4):
            if V - v >= 4:
                sparse_logits_of(x, column, k, last, end, coef + v, problem.width, row + v, 4)
            elif V - v == 3:
                sparse_logits_of(x, column, k, last, end, coef + v, problem.width, row + v, 3)
            elif V - v == 2:
                sparse_logits_of(x, column, k, last, end, coef + v, problem.width, row + v, 2)
            else:
                sparse_logits_of(x, column, k, last, end, coef + v, problem.width, row + v, 1)
        for j in range(problem.rows):
            put(z, (i - first) * classes + j, get(row, j) + problem.intercept[j])


cdef void add_sparse_gradient(
    const Linear* problem, const index_type* column, const vec* slopes, Py_ssize_t classes, vec* row, Py_ssize_t first,
    Py_ssize_t count, vec* gradient
) noexcept nogil:
    cdef const index_type* start = <const index_type*>problem.start
    cdef Py_ssize_t i, j, k, v, V = problem.width // lanes(slopes), end = start[first + count]
    cdef vec value
    cdef vec* out
    for j in range(V):
        row[j] = fill(slopes, 0)
    for i in range(first, first + count):
        for j in range(problem.rows):
            put(row, j, get(slopes, (i - first) * classes + j))
        for k in range(<Py_ssize_t>start[i], <Py_ssize_t>start[i + 1]):
            value = fill(slopes, get(<const vec*>problem.x, k))
            out = from_element(gradient, column[min(k + PREFETCH_ELEMENTS, end - 1)] * problem.width)
            fetch(<const vec*>out, V)
            out = from_element(gradient, column[k] * problem.width)
            for v in range(V):
                out[v] = multiply_add(value, row[v], out[v])


# ---------------------------------------------------------------------------------------------------------------------
# Dual ascent over sparse rows: see dual.py
# ---------------------------------------------------------------------------------------------------------------------

cdef void fetch_row(
    const Linear* problem, const index_type* column, const vec* coef, Py_ssize_t i
) noexcept nogil:
    """Bring the elements of a sparse row, which is next, and its first coefficients."""
    cdef const index_type* start = <const index_type*>problem.start
    cdef const vec* x = element(<const vec*>problem.x, start[i])
    cdef Py_ssize_t k, n = start[i + 1] - start[i]
    fetch(x, n // lanes(x) + 1)
    fetch(<const vec*>(column + start[i]), n * <Py_ssize_t>sizeof(index_type) // <Py_ssize_t>sizeof(vec) + 1)
    for k in range(min(n, PREFETCH_ELEMENTS)):
        fetch(element(coef, column[start[i] + k] * problem.width), problem.width // lanes(x))


cdef double sweep(
    const Linear* problem, const index_type* column, vec* z, double strength, Py_ssize_t count, Py_ssize_t stride
) noexcept nogil:
    """Rows one by one, `stride` apart: `kept` goes some of the way to the probabilities that the row's logits have, and
    the coefficients go with it. z: room for three rows padded to vectors. Return by how much `kept` has moved."""
    cdef const index_type* start = <const index_type*>problem.start
    cdef Py_ssize_t classes = problem.batch.logits.n, offset = classes - problem.rows, i = 0, j, k, step
    cdef vec* p = z + (classes + lanes(z) - 1) // lanes(z)
    cdef vec* row = p + (classes + lanes(z) - 1) // lanes(z)
    cdef vec* coef = <vec*>problem.coef
    cdef vec* kept
    cdef double bound = 0.25 if offset else 0.5     # of the Hessian of a row's loss, in its logits
    cdef double square, pull, share, change, moved = 0
    cdef Traffic traffic = no_traffic(z)
    for step in range(count):
        kept = from_element(<vec*>problem.kept, i * classes)
        pull = problem.mass[i] / strength
        square = 0
        for k in range(<Py_ssize_t>start[i], <Py_ssize_t>start[i + 1]):
            square += get(<const vec*>problem.x, k) * get(<const vec*>problem.x, k)
        share = 1 / (1 + bound * pull * square)
        if offset:
            put(z, 0, 0)
        sparse_logits(problem, column, coef, from_element(z, offset), classes, row, i, 1)
        fetch_row(problem, column, coef, (i + stride) % count)
        softmax_row(z, p, classes, &traffic)
        for j in range(classes):
            change = share * (get(p, j) - get(kept, j))
            put(kept, j, get(kept, j) + change)
            put(z, j, -pull * change)
            moved += problem.mass[i] * change * change
        add_sparse_gradient(problem, column, from_element(z, offset), classes, row, i, 1, coef)
        i = (i + stride) % count
    return moved


# ---------------------------------------------------------------------------------------------------------------------
# A block of rows, tile by tile
# ---------------------------------------------------------------------------------------------------------------------

cdef void move_to(Operand* operand, char* base, Py_ssize_t i) noexcept nogil:
    """Make row i of what begins at `base` the first."""
    operand.data = base + (i * operand.strides[0] if operand.ndim else 0)


cdef void curve(
    const Linear* problem, vec* change, const vec* p, Py_ssize_t classes, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """Changes of logits become those of the slopes: mass p (change - p . change)."""
    cdef Py_ssize_t i, j, offset = classes - problem.rows
    cdef double mean
    for i in range(count):
        mean = 0
        for j in range(problem.rows):
            mean += get(p, i * classes + offset + j) * get(change, i * classes + offset + j)
        if problem.rows == 1:       # nothing cancels
            put(change, 2 * i + 1, problem.mass[first + i] * get(p, 2 * i) * mean)
        else:
            for j in range(classes):
                put(
                    change, i * classes + j,
                    problem.mass[first + i] * get(p, i * classes + j) * (get(change, i * classes + j) - mean)
                )


cdef void spread(
    const Linear* problem, vec* out, const vec* p, Py_ssize_t classes, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """out = mass p (1 - p)."""
    cdef Py_ssize_t i, j
    for i in range(count):
        for j in range(classes):
            put(
                out, i * classes + j,
                problem.mass[first + i] * get(p, i * classes + j) * (1 - get(p, i * classes + j))
            )


cdef void turn_rows(
    const Linear* problem, Py_ssize_t first, Py_ssize_t count, vec* room, Py_ssize_t stride
) noexcept nogil:
    """Rows that lie side by side, one after the other, `stride` bytes apart."""
    if vec is vf32:
        xent_transpose_rows_f32(problem.x + first * problem.stride, problem.step, room, stride, problem.features, count, False)
    else:
        xent_transpose_rows_f64(problem.x + first * problem.stride, problem.step, room, stride, problem.features, count, False)


cdef double linear_block(
    const Linear* problem, vec* scratch, vec* tile, vec* sums, vec* rows_room, double* gradient, vec* sparse_gradient,
    Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Rows first <= i < last; tile: their logits, then a padded row; sums: a dense gradient in the type of X, zeros;
    rows_room: for a tile of rows; gradient: of float64 with the intercept last, or of sparse rows the intercept alone."""
    cdef Batch batch = problem.batch
    cdef Room room
    cdef Operand rows
    cdef Py_ssize_t classes = batch.logits.n, offset = classes - problem.rows, width = 0, step = problem.features + 1
    cdef Py_ssize_t i = first, j, k, d, count, added = 0
    cdef vec* z = from_element(tile, offset)
    cdef vec* row = from_element(tile, problem.tile * classes)
    cdef vec* slopes = z
    cdef double total = 0
    cdef double* bias = gradient
    cdef char* x = problem.x
    cdef Py_ssize_t stride = problem.stride
    cdef char* target = problem.batch.target.data
    cdef char* weight = problem.batch.sample_weight.data
    room = room_of(&batch, <double*>scratch)
    width = (problem.features + lanes(tile) - 1) // lanes(tile) * lanes(tile)
    while i < last:
        count = min(problem.tile, last - i)
        if offset:
            for k in range(count):
                put(tile, 2 * k, 0)
        if problem.step:
            x, stride = <char*>rows_room, row_length(problem) * sizeof(vec) // lanes(tile)
            turn_rows(problem, i, count, rows_room, stride)
        else:
            x = problem.x + i * problem.stride
        if problem.task == DIAGONAL:
            spread(problem, tile, element(<const vec*>problem.kept, i * classes), classes, i, count)
        elif problem.stride:
            dense_logits(problem, x, stride, <const vec*>problem.coef, z, classes, count)
        elif problem.wide_index:
            sparse_logits(problem, <const int64_t*>problem.index, <const vec*>problem.coef, z, classes, row, i, count)
        else:
            sparse_logits(problem, <const int32_t*>problem.index, <const vec*>problem.coef, z, classes, row, i, count)
        if problem.task == LOSS:
            move_to(&batch.target, target, i)
            move_to(&batch.sample_weight, weight, i)
            total += cross_entropy_block(&batch, scratch, &room, 0, count)
        elif problem.task == PROBABILITIES:
            rows = batch.logits
            rows.data = <char*>element(<vec*>problem.kept, i * classes)
            softmax_block(&batch.logits, &rows, False, scratch, classes, 0, count)
            i += count
            continue
        elif problem.task == CURVATURE:
            curve(problem, tile, element(<const vec*>problem.kept, i * classes), classes, i, count)
        if problem.stride:
            add_dense_gradient(problem, x, stride, slopes, classes, count, sums, width)
        elif problem.wide_index:
            add_sparse_gradient(problem, <const int64_t*>problem.index, slopes, classes, row, i, count, sparse_gradient)
        else:
            add_sparse_gradient(problem, <const int32_t*>problem.index, slopes, classes, row, i, count, sparse_gradient)
        for j in range(problem.rows):
            bias = gradient + (j * step + problem.features if problem.stride else j)
            for k in range(count):
                bias[0] += get(slopes, k * classes + j)
        i += count
        added += count
        if problem.stride and (added >= FLUSH_ROWS or i == last):
            for j in range(problem.rows):
                for d in range(problem.features):
                    gradient[j * step + d] += get(sums, j * width + d)
                    put(sums, j * width + d, 0)
            added = 0
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


cdef void bind_csr(Linear* linear, X, Py_ssize_t rows, coef, intercept) noexcept:
    linear.x = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[0])
    linear.index = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[1])
    linear.start = <char*>cnp.PyArray_DATA(<cnp.ndarray>X[2])
    linear.wide_index = cnp.PyArray_ITEMSIZE(<cnp.ndarray>X[1]) == 8
    linear.stride = 0
    linear.features = cnp.PyArray_DIM(<cnp.ndarray>coef, 0)
    linear.rows = rows
    linear.width = cnp.PyArray_DIM(<cnp.ndarray>coef, 1)
    linear.coef = <char*>cnp.PyArray_DATA(<cnp.ndarray>coef)
    linear.intercept = <double*>cnp.PyArray_DATA(<cnp.ndarray>intercept)


def dual_sweep(
    X, Py_ssize_t rows, coef, intercept, kept, mass, double strength, room, Py_ssize_t count, Py_ssize_t stride
):
    """A sweep over the rows of CSR (elements, columns, starts), which changes `kept` and the coefficients."""
    cdef Linear linear
    cdef char* z = <char*>cnp.PyArray_DATA(<cnp.ndarray>room)
    cdef double moved
    bind(&linear.batch.logits, kept, 1)      # for their number and type
    bind_csr(&linear, X, rows, coef, intercept)
    linear.kept = <char*>cnp.PyArray_DATA(<cnp.ndarray>kept)
    linear.mass = <double*>cnp.PyArray_DATA(<cnp.ndarray>mass)
    with nogil:
        if linear.batch.logits.kind != F64 and linear.wide_index:
            moved = sweep(&linear, <const int64_t*>linear.index, <vf32*>z, strength, count, stride)
        elif linear.batch.logits.kind != F64:
            moved = sweep(&linear, <const int32_t*>linear.index, <vf32*>z, strength, count, stride)
        elif linear.wide_index:
            moved = sweep(&linear, <const int64_t*>linear.index, <vf64*>z, strength, count, stride)
        else:
            moved = sweep(&linear, <const int32_t*>linear.index, <vf64*>z, strength, count, stride)
    return moved


cdef void linear_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef Linear linear = (<const Linear*>task)[0]
    cdef Py_ssize_t classes = linear.batch.logits.n, i, sums_length = sums_scratch(&linear)
    cdef double* sums = scratch
    cdef double* tile = sums + sums_length
    cdef double* rows = tile + tile_length(&linear)
    cdef double* rest = rows + rows_scratch(&linear)
    linear.batch.logits.data = linear.batch.grad.data = <char*>tile
    for i in range(sums_length):
        sums[i] = 0
    while next_block(claim):
        if linear.batch.logits.kind != F64:
            linear.totals[claim.block] = linear_block(
                &linear, <vf32*>rest, <vf32*>tile, <vf32*>sums, <vf32*>rows,
                linear.gradients + claim.block * linear.gradient_step,
                <vf32*>(linear.sparse_gradients + claim.block * linear.sparse_step), claim.first, claim.last
            )
        else:
            linear.totals[claim.block] = linear_block(
                &linear, <vf64*>rest, <vf64*>tile, <vf64*>sums, <vf64*>rows,
                linear.gradients + claim.block * linear.gradient_step,
                <vf64*>(linear.sparse_gradients + claim.block * linear.sparse_step), claim.first, claim.last
            )


cdef Py_ssize_t sums_scratch(const Linear* linear) noexcept nogil:
    """The length of a dense gradient, its rows padded to whole vectors."""
    return linear.rows * (row_length(linear) + LINE_DOUBLES) if linear.stride else 0


cdef Py_ssize_t row_length(const Linear* linear) noexcept nogil:
    """Of a dense row, to the end of a line of the cache in any type."""
    return (linear.features + 2 * LINE_DOUBLES - 1) // (2 * LINE_DOUBLES) * (2 * LINE_DOUBLES)


cdef Py_ssize_t rows_scratch(const Linear* linear) noexcept nogil:
    return linear.tile * row_length(linear) if linear.step else 0


cdef Py_ssize_t tile_length(const Linear* linear) noexcept nogil:
    """The length of a tile of logits, and of a row padded to whole vectors."""
    return ((linear.tile + 1) * linear.batch.logits.n // LINE_DOUBLES + 3) * LINE_DOUBLES


def linear_sums(
    problem, options, int task, X, Py_ssize_t rows, coef, intercept, kept, mass, totals, gradients, sparse_gradients,
    Work work
):
    """For each block i of rows: totals[i] = the sum of losses, gradients[i] += a gradient.

    X: rows of an array, each contiguous or all side by side, or a tuple (elements, columns, starts) of CSR.
    problem.logits: of the shape and type of a tile; its elements are not used. Without gradients (task PROBABILITIES)
    only `kept` is written."""
    cdef Linear linear
    bind_batch(&linear.batch, problem, options, 0)
    linear.batch.divisor = 1
    linear.batch.grad = linear.batch.logits
    linear.task = <Task>task
    linear.tile = cnp.PyArray_DIM(<cnp.ndarray>problem.logits, 0)
    linear.index = linear.start = linear.kept = NULL
    linear.mass = NULL
    linear.width = linear.step = 0
    linear.wide_index = False
    if type(X) is tuple:
        bind_csr(&linear, X, rows, coef, intercept)
    else:
        linear.rows = rows
        linear.x = <char*>cnp.PyArray_DATA(<cnp.ndarray>X)
        linear.stride = cnp.PyArray_STRIDE(<cnp.ndarray>X, 0)
        if cnp.PyArray_STRIDE(<cnp.ndarray>X, 1) != cnp.PyArray_ITEMSIZE(<cnp.ndarray>X):
            linear.step = cnp.PyArray_STRIDE(<cnp.ndarray>X, 1)
        linear.features = cnp.PyArray_DIM(<cnp.ndarray>X, 1)
        linear.coef = <char*>cnp.PyArray_DATA(<cnp.ndarray>coef)
        linear.intercept = <double*>cnp.PyArray_DATA(<cnp.ndarray>intercept)
    if kept is not None:
        linear.kept = <char*>cnp.PyArray_DATA(<cnp.ndarray>kept)
    if mass is not None:
        linear.mass = <double*>cnp.PyArray_DATA(<cnp.ndarray>mass)
    linear.totals = <double*>cnp.PyArray_DATA(<cnp.ndarray>totals)
    linear.gradients = NULL
    linear.sparse_gradients = NULL
    linear.gradient_step = linear.sparse_step = 0
    if gradients is not None:
        linear.gradients = <double*>cnp.PyArray_DATA(<cnp.ndarray>gradients)
        linear.gradient_step = cnp.PyArray_STRIDE(<cnp.ndarray>gradients, 0) // sizeof(double)
    if sparse_gradients is not None:
        linear.sparse_gradients = <char*>cnp.PyArray_DATA(<cnp.ndarray>sparse_gradients)
        linear.sparse_step = cnp.PyArray_STRIDE(<cnp.ndarray>sparse_gradients, 0)
    work.do(
        linear_worker, &linear,
        sums_scratch(&linear) + tile_length(&linear) + rows_scratch(&linear) + plan_batch(&linear.batch, work.job.threads)
        + tile_space(linear.batch.logits.n)
    )
