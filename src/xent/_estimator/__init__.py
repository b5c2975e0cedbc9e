"""The parts of the estimator around a fit: labels, parameters, prediction, files, progress."""
