"""Retrieval over long contexts: accuracy by task, length and depth, for several caches on the same samples."""
