"""Display of results on a terminal and in a pipe: tables, colours, hints, progress, grouped help. Commands call it."""
