"""Fitting a linear classifier: the minimum of a mean cross-entropy and a penalty.

Each file imports only from those above it:

    types, solver       arrays; what a solver takes and returns
    trust_region        how well a step agrees with its model
    inverses            inverses and factors of nearly singular matrices
    lbfgs, newton_cg,   the solvers of smooth functions, which know nothing of classifiers
    newton
    kinks               what L1 adds to a smooth function
    quadratics          quadratic models with kinks, and their minimum
    proximal_newton     the solver of functions with kinks
    curvature           p (1 - p) and what follows from it
    penalties           L2, elastic net
    logits              the linear model, a block of rows at a time
    subsample           rows that a preconditioner is computed from
    sums                the sums over rows that a fit needs (a protocol)
    row_pass, hessian,  the sums over rows in memory
    scores, row_sums
    partitioned         the sums over partitions
    preconditioners     rough inverses of the Hessian, from sums and a penalty
    objective           sums and a penalty as a function of a vector
    dual_ascent         a start for sparse rows
    column_descent      the quadratic model of rows in memory, column by column
    newton_models       the choice of quadratic models
    working_set         the solver of functions with kinks on some of the features at a time
    strategy            the choice of solvers: `minimise`
    fold_sums           the sums over rows in memory, under the weights of several folds
    path                fits of folds with many strengths of the penalty
    online              one batch of a stream
    covariance          the covariance of the coefficients at a minimum
"""
