"""From a Python call to a kernel.

- scalars, arrays, options, targets, weights, outputs: check arguments, once, and convert them to what kernels read;
  frames converts those of pandas, polars and Arrow.
- losses, softmax, evaluation, linear_losses: from checked arguments to a result.
- matmul_blocks: the products of a linear layer, block by block.
- threads, cpus, dispatch: cut work into blocks and run them; choose the instruction set.
"""
