"""lm-evaluation-harness on livekv: the model `livekv`, its three requests, and the harness's own command line."""
