"""Tuning of the compressed cache: bits a value against divergence, over its options, by Optuna."""
