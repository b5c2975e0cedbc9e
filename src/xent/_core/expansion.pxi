# Part of _kernels.pyx: loss, gradient and the whole Hessian of a linear classifier, for few coefficients, in float64.
#
# With x a row (its last element 1, for the intercept), w its weight and p its probabilities, all that the Hessian takes
# are the sums of w p_k p_l x_i x_j over the rows, for all classes k < l and all elements i <= j. That is a product of
# two matrices, (products of elements, rows) (rows, pairs of classes), a tile of rows at a time.
#
# A tile is stored column by column, so that its columns are multiplied whole vectors at a time, and so are all rows of
# the products. Both matrix products are those of linear.pxi with their operands exchanged: the logits, column by
# column, are the "gradient" of coefficients and columns; gradients and sums of pairs are "logits" of columns.

cdef enum:
    CHUNK_PRODUCTS = 128        # columns of products of elements made at a time, or those of one element
    CHUNK_PAIRS = 64            # of products of probabilities, or those of one class


cdef struct Expansion:
    Batch batch                 # its logits are those of a tile
    Operand x                   # dense columns; absent if rows are sparse
    Operand values              # CSR: contiguous
    Operand columns
    Operand row_starts
    double* row_weight
    Py_ssize_t size             # features + 1
    Py_ssize_t n_coef_rows
    Py_ssize_t pairs            # of classes
    const double* coef          # (size, n_coef_rows)
    Py_ssize_t tile_rows        # whole lines
    double* totals              # (blocks): sums of losses
    double* gradients           # (blocks, size, n_coef_rows)
    double* sums                # (blocks, size (size + 1) / 2, pairs) by products, else (blocks, pairs, the other)
    bint by_products            # whether products of elements are made once for all pairs


cdef struct ExpansionScratch:   # of one thread. Columns have tile_rows elements
    double* x                   # (size, tile_rows)
    double* logits              # (classes, tile_rows); of two classes with one row of coefficients, the first stays 0
    double* logit_grad          # (classes, tile_rows)
    double* p                   # (classes, tile_rows)
    double* weighted            # (classes, tile_rows): w p
    double* weights             # (chunk of pairs, tile_rows): w p_k p_l
    double* products            # (chunk of products, tile_rows): x_i x_j
    double* result              # of a matrix product
    double* zeros
    double* rest                # for softmax and loss
    Linear linear               # says how many classes, or pairs, a matrix product has


cdef struct TilePart:           # some columns, and their products with one another
    const double* left
    const double* right
    double* out
    Py_ssize_t length           # of a column


cdef Py_ssize_t lay_out_expansion(const Expansion* task, double* start, ExpansionScratch* scratch) noexcept nogil:
    cdef Memory memory
    cdef Py_ssize_t rows = task.tile_rows, classes = task.batch.logits.n
    cdef Py_ssize_t pairs = min(task.pairs, max(CHUNK_PAIRS, classes))
    cdef Py_ssize_t products = max(CHUNK_PRODUCTS, task.size)
    memory.start, memory.used = start, 0
    scratch.x = take(&memory, True, task.size * rows)
    scratch.logits = take(&memory, True, classes * rows)
    scratch.logit_grad = take(&memory, True, classes * rows)
    scratch.p = take(&memory, True, classes * rows)
    scratch.weighted = take(&memory, True, classes * rows)
    scratch.weights = take(&memory, True, pairs * rows)
    scratch.products = take(&memory, True, products * rows)
    scratch.result = take(&memory, True, max(products * max(pairs, 4), task.size * task.n_coef_rows))
    scratch.zeros = take(&memory, True, max(pairs, classes))
    scratch.rest = take(&memory, True, 0)
    return memory.used


# --- a tile of rows --------------------------------------------------------------------------------------------------


cdef inline bint has_adjacent_columns(const Operand* x) noexcept nogil:
    """Whether the elements of a row are side by side, so that 4 x 4 of them are transposed at a time."""
    return x.ndim == 1 and x.run == x.n and (
        (x.kind == F64 and x.strides[0] == sizeof(double)) or (x.kind == F32 and x.strides[0] == sizeof(float))
    )


cdef void read_dense_tile(
    const Expansion* task, double* x, double* buffer, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """The buffer is as large as x."""
    cdef Operand source = task.x
    cdef Py_ssize_t n = task.size - 1, j, r
    cdef vf64* column
    cdef const vf64* values
    source.data += first * source.step
    source.n = source.run = count
    if has_adjacent_columns(&task.x) and source.kind == F64:
        xent_transpose_rows_f64(x, task.tile_rows * sizeof(double), source.data, source.step, n, count, True)
        return
    if has_adjacent_columns(&task.x):
        xent_transpose_rows_f32(buffer, task.tile_rows * sizeof(float), source.data, source.step, n, count, True)
        source.data, source.step, source.strides[0] = <char*>buffer, sizeof(float), task.tile_rows * sizeof(float)
    for j in range(n):
        column = <vf64*>(x + j * task.tile_rows)
        values = gather(&source, j, 0, count, column)
        if values == column:
            continue
        r = 0
        while r + XENT_LANES_f64 <= count:
            from_element(column, r)[0] = element(values, r)[0]
            r += XENT_LANES_f64
        for r in range(r, count):
            put(column, r, get(values, r))


cdef void read_sparse_tile(const Expansion* task, double* x, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """What is stored several times is added up."""
    cdef const Operand* starts = &task.row_starts
    cdef const Operand* values = &task.values
    cdef const Operand* columns = &task.columns
    cdef Py_ssize_t r, k, end
    for k in range((task.size - 1) * task.tile_rows):
        x[k] = 0
    end = read_integer(starts.data + first * starts.step, starts.kind)
    for r in range(count):
        k, end = end, read_integer(starts.data + (first + r + 1) * starts.step, starts.kind)
        for k in range(k, end):
            x[read_integer(columns.data + k * columns.step, columns.kind) * task.tile_rows + r] += read_number(
                values.data + k * values.step, values.kind
            )


cdef void read_tile(
    const Expansion* task, const ExpansionScratch* scratch, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """A tile of rows in float64, with a last element of 1; rows after the last are 0."""
    cdef Py_ssize_t j, r
    cdef double* x = scratch.x
    if task.x.kind != ABSENT:
        read_dense_tile(task, x, scratch.products, first, count)
    else:
        read_sparse_tile(task, x, first, count)
    for r in range(count):
        x[(task.size - 1) * task.tile_rows + r] = 1
    for j in range(task.size):
        for r in range(count, task.tile_rows):
            x[j * task.tile_rows + r] = 0


cdef void multiply_columns(
    const TilePart* part, Py_ssize_t first, Py_ssize_t last, Py_ssize_t offset, Py_ssize_t n
) noexcept nogil:
    """out = left_i right_j, element by element, for first <= i < last and i + offset <= j < n, in order."""
    cdef Py_ssize_t length = part.length, i, j, r
    cdef const vf64* left
    cdef const vf64* right
    cdef vf64* out = <vf64*>part.out
    for i in range(first, last):
        left = <const vf64*>(part.left + i * length)
        for j in range(i + offset, n):
            right = <const vf64*>(part.right + j * length)
            for r in range(length // XENT_LANES_f64):
                out[r] = left[r] * right[r]
            out = from_element(out, length)


cdef inline Py_ssize_t end_of_chunk(
    Py_ssize_t first, Py_ssize_t offset, Py_ssize_t n, Py_ssize_t most, Py_ssize_t* count
) noexcept nogil:
    """The last i (excluded) of a chunk of pairs first <= i, i + offset <= j < n, and how many it has: at most `most`,
    or those of one i."""
    cdef Py_ssize_t last = first + 1
    count[0] = n - offset - first
    while last < n - offset and count[0] + n - offset - last <= most:
        count[0] += n - offset - last
        last += 1
    return last


cdef void add_rows(
    double* sums, Py_ssize_t stride, const double* more, Py_ssize_t count, Py_ssize_t n
) noexcept nogil:
    """sums[i, j] += more[i, j] for i < count, j < n; rows of sums are `stride` numbers apart."""
    cdef Py_ssize_t i, j
    if stride == n:
        count, n = 1, count * n
    for i in range(count):
        j = 0
        while j + XENT_LANES_f64 <= n:
            from_element(<vf64*>sums, j)[0] = element(<vf64*>sums, j)[0] + element(<const vf64*>more, j)[0]
            j += XENT_LANES_f64
        for j in range(j, n):
            sums[j] += more[j]
        sums += stride
        more += n


cdef void multiply_tile(
    ExpansionScratch* scratch, const DenseRows* columns, const double* others, Py_ssize_t n
) noexcept nogil:
    """result (columns, n) = the products of columns with n others, each the sum over the rows of the tile."""
    scratch.linear.n_coef_rows, scratch.linear.intercept = n, scratch.zeros
    dense_logits(&scratch.linear, columns, <const vf64*>others, <vf64*>scratch.result, n)


cdef void add_by_products(const Expansion* task, ExpansionScratch* scratch, double* sums) noexcept nogil:
    """sums += what a tile adds to them."""
    cdef Py_ssize_t size = task.size, classes = task.batch.logits.n, i = 0, k, end, last, more, place
    cdef DenseRows columns
    cdef TilePart products, weights
    products.left = products.right = scratch.x
    products.out, products.length = scratch.products, task.tile_rows
    weights.left, weights.right = scratch.weighted, scratch.p
    weights.out, weights.length = scratch.weights, task.tile_rows
    columns.x, columns.stride = <const char*>scratch.products, task.tile_rows * sizeof(double)
    columns.features, columns.ahead = task.tile_rows, 0
    while i < size:
        end = end_of_chunk(i, 0, size, CHUNK_PRODUCTS, &columns.count)
        multiply_columns(&products, i, end, 0, size)
        k = place = 0
        while k < classes - 1:
            last = end_of_chunk(k, 1, classes, CHUNK_PAIRS, &more)
            if i == 0 or more < task.pairs:     # else they are still there
                multiply_columns(&weights, k, last, 1, classes)
            multiply_tile(scratch, &columns, scratch.weights, more)
            add_rows(sums + place, task.pairs, scratch.result, columns.count, more)
            place += more
            k = last
        sums += columns.count * task.pairs
        i = end


cdef void add_pair_of_classes(
    const Expansion* task, ExpansionScratch* scratch, const double* weight, double* sums
) noexcept nogil:
    """sums += those of one pair of classes, with weights w p_k p_l: (w p_k p_l x_i) x_j, j in groups of up to four."""
    cdef Py_ssize_t size = task.size, rows = task.tile_rows, groups = (size + 3) // 4, i, j = 0, n, g, c
    cdef DenseRows columns
    cdef TilePart weighted
    weighted.left, weighted.right = weight, scratch.x
    weighted.out, weighted.length = scratch.products, rows
    multiply_columns(&weighted, 0, 1, 0, size)
    columns.x, columns.stride = <const char*>scratch.products, rows * sizeof(double)
    columns.features, columns.ahead = rows, 0
    for g in range(groups):
        n = (size - j) // (groups - g)
        columns.count = j + n
        multiply_tile(scratch, &columns, scratch.x + j * rows, n)
        for i in range(j + n):
            for c in range(max(0, i - j), n):
                sums[i * (2 * size - i - 1) // 2 + j + c] += scratch.result[i * n + c]
        j += n


cdef void add_pair_by_pair(const Expansion* task, ExpansionScratch* scratch, double* sums) noexcept nogil:
    """The same without products of elements: for few pairs."""
    cdef Py_ssize_t classes = task.batch.logits.n, k, pair
    cdef TilePart weights
    weights.left, weights.right = scratch.weighted, scratch.p
    weights.out, weights.length = scratch.weights, task.tile_rows
    for k in range(classes - 1):
        multiply_columns(&weights, k, k + 1, 1, classes)
        for pair in range(classes - 1 - k):
            add_pair_of_classes(task, scratch, scratch.weights + pair * task.tile_rows, sums)
            sums += task.size * (task.size + 1) // 2


cdef void put_tile_logits(const Expansion* task, ExpansionScratch* scratch, DenseRows columns) noexcept nogil:
    """The logits of the tile, whose columns these are."""
    cdef Py_ssize_t rows = task.tile_rows, offset = task.batch.logits.n - task.n_coef_rows, i
    cdef double* logits = scratch.logits + offset * rows
    for i in range(task.n_coef_rows * rows):
        logits[i] = 0
    scratch.linear.n_coef_rows = scratch.linear.batch.logits.n = task.n_coef_rows
    add_dense_gradient(&scratch.linear, &columns, <const vf64*>task.coef, <vf64*>logits, rows)


cdef void weigh_probabilities(
    const Expansion* task, ExpansionScratch* scratch, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """weighted = w p"""
    cdef Py_ssize_t r
    cdef TilePart part
    part.left, part.right, part.out = scratch.products, scratch.p, scratch.weighted
    part.length = task.tile_rows
    for r in range(count):
        scratch.products[r] = task.row_weight[first + r]
    for r in range(count, task.tile_rows):
        scratch.products[r] = 0
    multiply_columns(&part, 0, 1, 0, task.batch.logits.n)


cdef double expand_block(
    const Expansion* task, ExpansionScratch* scratch, Py_ssize_t block, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Rows first <= i < last: the gradient and the sums of the block += theirs; returns the sum of their losses."""
    cdef Batch batch = task.batch
    cdef Py_ssize_t size = task.size, classes = batch.logits.n, i = first, rows = task.tile_rows, count
    cdef double* gradient = task.gradients + block * size * task.n_coef_rows
    cdef double* sums = task.sums + block * size * (size + 1) // 2 * task.pairs
    cdef double total = 0
    cdef vf64* rest = <vf64*>scratch.rest
    cdef LossScratch loss_scratch
    cdef SoftmaxTask softmax
    cdef DenseRows columns
    batch.logits.data, batch.grad.data = <char*>scratch.logits, <char*>scratch.logit_grad
    softmax.x = softmax.out = batch.logits
    softmax.where = batch.where
    softmax.out.data = <char*>scratch.p
    softmax.logarithm, softmax.piece = False, classes
    lay_out_loss(&batch, scratch.rest, &loss_scratch)
    columns.x, columns.stride = <const char*>scratch.x, rows * sizeof(double)
    columns.count, columns.features, columns.ahead = size, rows, 0
    while i < last:
        count = min(rows, last - i)
        read_tile(task, scratch, i, count)
        put_tile_logits(task, scratch, columns)
        softmax_block(&softmax, 0, count, rest)
        move_to(&batch.target, task.batch.target.data, i)
        move_to(&batch.sample_weight, task.batch.sample_weight.data, i)
        total += cross_entropy_block(&batch, &loss_scratch, 0, count, rest)
        multiply_tile(scratch, &columns, scratch.logit_grad + (classes - task.n_coef_rows) * rows, task.n_coef_rows)
        add_rows(gradient, task.n_coef_rows, scratch.result, size, task.n_coef_rows)
        weigh_probabilities(task, scratch, i, count)
        if task.by_products:
            add_by_products(task, scratch, sums)
        else:
            add_pair_by_pair(task, scratch, sums)
        i += count
    return total


# --- all of them -----------------------------------------------------------------------------------------------------


cdef void expansion_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const Expansion* expansion = <const Expansion*>task
    cdef ExpansionScratch parts
    cdef Py_ssize_t i
    for i in range(lay_out_expansion(expansion, scratch, &parts)):
        scratch[i] = 0      # rows after the last of a tile are multiplied with 0, and must not be NaN
    parts.linear.tile_rows = 0
    while next_block(claim):
        expansion.totals[claim.block] = expand_block(expansion, &parts, claim.block, claim.first, claim.last)


def expand_rows(problem, options, operands, sums, Work work):
    """For each block i of rows: totals[i] of the sums = the sum of losses, and gradients[i] and pairs[i] += theirs.

    problem.logits: of the shape and layout of a tile; its elements are not used. operands, sums: ExpansionOperands and
    ExpansionSums of _fit/hessian.py.
    """
    cdef Expansion task
    cdef ExpansionScratch unused
    cdef bint is_sparse = type(operands.X) is tuple
    bind_batch(&task.batch, problem, options, 0)
    task.batch.divisor = 1
    task.batch.grad = task.batch.logits
    task.tile_rows = cnp.PyArray_DIM(<cnp.ndarray>problem.logits, 0)
    bind(&task.x, None if is_sparse else operands.X, 1)
    bind(&task.values, operands.X[0] if is_sparse else None, 0)
    bind(&task.columns, operands.X[1] if is_sparse else None, 0)
    bind(&task.row_starts, operands.X[2] if is_sparse else None, 0)
    task.row_weight = doubles_of(operands.row_weight)
    task.coef = doubles_of(operands.coef)
    task.size = cnp.PyArray_DIM(<cnp.ndarray>operands.coef, 0)
    task.n_coef_rows = cnp.PyArray_DIM(<cnp.ndarray>operands.coef, 1)
    task.by_products = operands.by_products
    task.pairs = task.batch.logits.n * (task.batch.logits.n - 1) // 2
    task.totals = data_of_blocks(sums.totals, work, 1)
    task.gradients = data_of_blocks(sums.gradients, work, task.size * task.n_coef_rows)
    task.sums = data_of_blocks(sums.pairs, work, task.size * (task.size + 1) // 2 * task.pairs)
    work.do(
        expansion_worker, &task,
        lay_out_expansion(&task, NULL, &unused) + plan_batch(&task.batch, work.job.threads)
        + 2 * tile_space(task.batch.logits.n)
    )
