"""Ablations: what each part of the compressed cache is worth, every setting against one baseline, paired."""
