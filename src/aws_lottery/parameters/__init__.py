"""What is done to a model's parameters: sorted, matched, held, interpolated."""
