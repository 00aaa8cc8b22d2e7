"""Runs on disk: a search, a final training, their folder, checkpoints."""
