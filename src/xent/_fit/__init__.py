"""Fitting a linear classifier: the minimum of a mean cross-entropy and a penalty.

Each file imports only from those above it:

    types, solver       arrays; what a solver takes and returns
    lbfgs, newton_cg    the solvers, which know nothing of classifiers
    curvature           p (1 - p) and what follows from it
    inverses            of nearly singular matrices
    penalties           L2
    logits              the linear model, a block of rows at a time
    subsample           rows that a preconditioner is computed from
    sums                the sums over rows that a fit needs (a protocol)
    row_pass, row_sums  the sums over rows in memory
    hessian             the whole Hessian of rows in memory
    partitioned         the sums over partitions
    preconditioners     rough inverses of the Hessian, from sums and a penalty
    objective           sums and a penalty as a function of a vector
    dual_ascent         a start for sparse rows
    strategy            the choice of solvers: `minimise`
    online              one batch of a stream
"""
