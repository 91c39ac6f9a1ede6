"""What a command shows on a terminal and in a pipe: tables, colours, hints, progress, grouped help. Commands call it."""
