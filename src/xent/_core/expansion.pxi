# Part of _kernels.pyx: loss, gradient and the whole Hessian of a linear classifier, for few coefficients, in float64.
#
# With x a row (its last element 1, for the intercept), w its weight and p its probabilities, all that the Hessian takes
# are the sums of w p_k p_l x_i x_j over the rows, for all classes k < l and all elements i <= j. That is a product of
# two matrices, (rows, pairs of classes)' (rows, products of elements), and is multiplied like the gradient
# (rows, classes)' (rows, features) in linear.pxi: a tile of rows at a time, whose factors stay in the cache.

cdef enum:
    CHUNK_PRODUCTS = 256        # products of elements of a row made at a time, or those of one element with the others


cdef struct Expansion:
    Batch batch                 # its logits are those of a tile
    Operand x                   # dense rows; absent if they are sparse
    Operand values              # CSR: contiguous
    Operand columns
    Operand row_starts
    double* row_weight
    Linear of_classes           # for products of rows with coefficients
    Linear of_pairs             # for those of pairs of classes with products of elements
    Py_ssize_t tile_rows
    double* totals              # (blocks): sums of losses
    double* gradients           # (blocks, n_coef_rows, whole_lines(size)), where size is features + 1
    double* sums                # (blocks, pairs, whole_lines(size (size + 1) / 2))


cdef struct ExpansionScratch:   # of one thread; after each array there is a cache line that may be overwritten
    double* rows                # (tile_rows, whole_lines(size)): x
    double* logits              # (tile_rows, classes), then the gradients of the losses in their place
    double* p                   # (tile_rows, classes)
    double* weights             # (tile_rows, pairs): w p_k p_l
    double* products            # (tile_rows, products_stride): x_i x_j of a chunk
    double* rest                # for softmax and loss


cdef inline Py_ssize_t whole_lines(Py_ssize_t n) noexcept nogil:
    return (n + LINE_DOUBLES - 1) // LINE_DOUBLES * LINE_DOUBLES


cdef inline Py_ssize_t products_stride(Py_ssize_t size) noexcept nogil:
    return row_space(min(max(size, CHUNK_PRODUCTS), size * (size + 1) // 2))


cdef Py_ssize_t lay_out_expansion(const Expansion* task, double* start, ExpansionScratch* scratch) noexcept nogil:
    cdef Memory memory
    cdef Py_ssize_t rows = task.tile_rows, size = task.of_classes.features
    memory.start, memory.used = start, 0
    scratch.rows = take(&memory, True, row_space(rows * whole_lines(size)))
    scratch.logits = take(&memory, True, row_space(rows * task.batch.logits.n))
    scratch.p = take(&memory, True, row_space(rows * task.batch.logits.n))
    scratch.weights = take(&memory, True, row_space(rows * task.of_pairs.n_coef_rows))
    scratch.products = take(&memory, True, row_space(rows * products_stride(size)))
    scratch.rest = take(&memory, True, 0)
    return memory.used


cdef void widen_dense(const Operand* x, Py_ssize_t i, Py_ssize_t n, vf64* row) noexcept nogil:
    """row = the n elements of row i, followed by anything up to a whole vector."""
    cdef const vf64* source = gather(x, i, 0, n, row)
    cdef Py_ssize_t j = 0
    if source == row:
        return
    while j + XENT_LANES_f64 <= n:
        from_element(row, j)[0] = element(source, j)[0]
        j += XENT_LANES_f64
    if j < n:
        from_element(row, j)[0] = load_first(element(source, j), n - j, 0)


cdef void widen_sparse(const Expansion* task, Py_ssize_t i, Py_ssize_t n, double* row) noexcept nogil:
    """row = the n elements of row i; what is stored several times is added up."""
    cdef const Operand* starts = &task.row_starts
    cdef const Operand* values = &task.values
    cdef const Operand* columns = &task.columns
    cdef Py_ssize_t k, end = read_integer(starts.data + (i + 1) * starts.step, starts.kind)
    for k in range(n):
        row[k] = 0
    for k in range(read_integer(starts.data + i * starts.step, starts.kind), end):
        row[read_integer(columns.data + k * columns.step, columns.kind)] += read_number(
            values.data + k * values.step, values.kind
        )


cdef void widen_rows(const Expansion* task, const DenseRows* rows, Py_ssize_t first) noexcept nogil:
    """A tile of rows in float64, each with a last element of 1."""
    cdef double* row = <double*>rows.x
    cdef Py_ssize_t i, n = rows.features - 1
    for i in range(first, first + rows.count):
        if task.x.kind != ABSENT:
            widen_dense(&task.x, i, n, <vf64*>row)
        else:
            widen_sparse(task, i, n, row)
        row[n] = 1
        row += rows.stride // <Py_ssize_t>sizeof(double)


cdef inline void multiply_elements(
    vf64* out, const vf64* row, double factor, Py_ssize_t first, Py_ssize_t last, Py_ssize_t offset, Py_ssize_t n
) noexcept nogil:
    """out = factor row[i] row[j] for first <= i < last and i + offset <= j < n, one after the other. What follows, up
    to a vector, is overwritten."""
    cdef Py_ssize_t i, j
    cdef vf64 scaled
    for i in range(first, last):
        scaled = fill(row, factor * get(row, i))
        j = i + offset
        while j < n:
            from_element(out, j - i - offset)[0] = scaled * element(row, j)[0]
            j += XENT_LANES_f64
        out = from_element(out, n - offset - i)


cdef void add_pairs(
    const Expansion* task, const ExpansionScratch* scratch, const DenseRows* rows, double* sums, Py_ssize_t first
) noexcept nogil:
    """sums += what a tile of rows, the first of which is row `first`, adds to the sums of pairs."""
    cdef Py_ssize_t size = rows.features, classes = task.batch.logits.n, pairs = task.of_pairs.n_coef_rows
    cdef Py_ssize_t width = whole_lines(size * (size + 1) // 2), stride = products_stride(size), i = 0, end, r
    cdef DenseRows products
    for r in range(rows.count):
        multiply_elements(
            <vf64*>(scratch.weights + r * pairs), <const vf64*>(scratch.p + r * classes), task.row_weight[first + r],
            0, classes - 1, 1, classes
        )
    products.x, products.stride = <const char*>scratch.products, stride * sizeof(double)
    products.count, products.ahead = rows.count, 0
    while i < size:
        products.features, end = size - i, i + 1
        while end < size and products.features + size - end <= CHUNK_PRODUCTS:
            products.features += size - end
            end += 1
        for r in range(rows.count):
            multiply_elements(
                <vf64*>(scratch.products + r * stride), <const vf64*>(rows.x + r * rows.stride), 1, i, end, 0, size
            )
        add_dense_gradient(&task.of_pairs, &products, <const vf64*>scratch.weights, <vf64*>sums, width)
        sums += products.features
        i = end


cdef double expand_block(
    const Expansion* task, const ExpansionScratch* scratch, Py_ssize_t block, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Rows first <= i < last: the gradient and the sums of the block += theirs; returns the sum of their losses."""
    cdef Batch batch = task.batch
    cdef Py_ssize_t size = task.of_classes.features, classes = batch.logits.n, i = first
    cdef Py_ssize_t n_coef_rows = task.of_classes.n_coef_rows
    cdef double* gradient = task.gradients + block * n_coef_rows * whole_lines(size)
    cdef double* sums = task.sums + block * task.of_pairs.n_coef_rows * whole_lines(size * (size + 1) // 2)
    cdef vf64* logits = <vf64*>scratch.logits
    cdef vf64* rest = <vf64*>scratch.rest
    cdef double total = 0
    cdef LossScratch loss_scratch
    cdef SoftmaxTask softmax
    cdef DenseRows rows
    batch.logits.data = batch.grad.data = <char*>logits
    softmax.x = softmax.out = batch.logits
    softmax.where = batch.where
    softmax.out.data = <char*>scratch.p
    softmax.logarithm, softmax.piece = False, classes
    lay_out_loss(&batch, scratch.rest, &loss_scratch)
    rows.x, rows.stride = <const char*>scratch.rows, whole_lines(size) * sizeof(double)
    rows.features, rows.ahead = size, 0
    while i < last:
        rows.count = min(task.tile_rows, last - i)
        widen_rows(task, &rows, i)
        logits_of_rows(&task.of_classes, &rows, logits, i, rows.count)
        softmax_block(&softmax, 0, rows.count, rest)
        move_to(&batch.target, task.batch.target.data, i)
        move_to(&batch.sample_weight, task.batch.sample_weight.data, i)
        total += cross_entropy_block(&batch, &loss_scratch, 0, rows.count, rest)
        add_dense_gradient(
            &task.of_classes, &rows, from_element(logits, classes - n_coef_rows), <vf64*>gradient, whole_lines(size)
        )
        add_pairs(task, scratch, &rows, sums, i)
        i += rows.count
    return total


cdef void expansion_worker(const void* task, double* scratch, BlockClaim* claim) noexcept nogil:
    cdef const Expansion* expansion = <const Expansion*>task
    cdef ExpansionScratch parts
    cdef Py_ssize_t i
    for i in range(lay_out_expansion(expansion, scratch, &parts)):
        scratch[i] = 0      # what follows an array is multiplied, though not used
    while next_block(claim):
        expansion.totals[claim.block] = expand_block(expansion, &parts, claim.block, claim.first, claim.last)


cdef int bind_expansion(Expansion* task, operands, sums, Work work) except -1:
    """operands, sums: ExpansionOperands and ExpansionSums of _fit/hessian.py."""
    cdef Linear* linear = &task.of_classes
    cdef bint is_sparse = type(operands.X) is tuple
    cdef Py_ssize_t size = cnp.PyArray_DIM(<cnp.ndarray>operands.coef, 1), classes = task.batch.logits.n
    bind(&task.x, None if is_sparse else operands.X, 1)
    bind(&task.values, operands.X[0] if is_sparse else None, 0)
    bind(&task.columns, operands.X[1] if is_sparse else None, 0)
    bind(&task.row_starts, operands.X[2] if is_sparse else None, 0)
    task.row_weight = doubles_of(operands.row_weight)
    linear.batch = task.batch
    linear.n_coef_rows = cnp.PyArray_DIM(<cnp.ndarray>operands.coef, 0)
    linear.features, linear.row_stride, linear.tile_rows = size, whole_lines(size) * sizeof(double), 0
    linear.coef = <char*>cnp.PyArray_DATA(<cnp.ndarray>operands.coef)
    linear.intercept = doubles_of(operands.zeros)
    task.of_pairs = linear[0]
    task.of_pairs.n_coef_rows = task.of_pairs.batch.logits.n = classes * (classes - 1) // 2
    task.totals = data_of_blocks(sums.totals, work, 1)
    task.gradients = data_of_blocks(sums.gradients, work, linear.n_coef_rows * whole_lines(size))
    task.sums = data_of_blocks(
        sums.pairs, work, task.of_pairs.n_coef_rows * whole_lines(size * (size + 1) // 2)
    )
    return 0


def expand_rows(problem, options, operands, sums, Work work):
    """For each block i of rows: totals[i] of the sums = the sum of losses, and gradients[i] and pairs[i] += theirs.

    problem.logits: of the shape of a tile, float64; its elements are not used.
    """
    cdef Expansion task
    cdef ExpansionScratch unused
    bind_batch(&task.batch, problem, options, 0)
    task.batch.divisor = 1
    task.batch.grad = task.batch.logits
    task.tile_rows = cnp.PyArray_DIM(<cnp.ndarray>problem.logits, 0)
    bind_expansion(&task, operands, sums, work)
    work.do(
        expansion_worker, &task,
        lay_out_expansion(&task, NULL, &unused) + plan_batch(&task.batch, work.job.threads)
        + 2 * tile_space(task.batch.logits.n)
    )
