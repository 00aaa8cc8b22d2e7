"""Conditions x rounds x seeds from searches, and what is shown of them."""
