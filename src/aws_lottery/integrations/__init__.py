"""aws_lottery inside other libraries' training loops."""
