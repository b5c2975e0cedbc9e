"""Minimising: sums over rows, penalties, preconditioners and solvers."""
