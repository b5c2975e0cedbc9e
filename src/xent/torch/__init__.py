"""PyTorch's cross-entropy on xent's kernels: the functions of `torch.nn.functional` by their names. Needs PyTorch.

    import xent.torch

    loss = xent.torch.cross_entropy(model(x), y)        # in place of F.cross_entropy
    loss.backward()

- `_cross_entropy.py`, `_linear.py`: the two functions.
- `_checks.py`: the arguments, and PyTorch's errors.
- `_arrays.py`: tensors as arrays in the same memory; the loss as PyTorch defines it.
- `_eager.py`: the loss and its gradient for autograd, with as little around it as possible.
- `_operators.py`: the same as an operator, for torch.compile, torch.func and second derivatives.
- `_layers.py`: the loss of a linear layer, as arrays and as an operator.
"""

from xent.torch._cross_entropy import cross_entropy
from xent.torch._linear import linear_cross_entropy

__all__ = ["cross_entropy", "linear_cross_entropy"]
