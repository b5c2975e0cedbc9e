"""What an estimator has around a fit: labels and parameters, prediction, files, progress."""
