"""What a program asks of the kernel for processes of its own; standard library alone, so that small helpers can load it."""
