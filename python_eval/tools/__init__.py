"""Tool calls over long contexts: whether a call still has the right function and arguments, by cache and depth."""
