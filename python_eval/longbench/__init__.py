"""LongBench v1, LongBench-E and v2 as their authors defined them: tasks, prompts, truncation, metrics, scores."""
