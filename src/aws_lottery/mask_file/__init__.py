"""A signed mask on disk and on the Hub."""
