"""A server of a model over HTTP: `python -m livekv.serve` (docs/serving.md)."""
