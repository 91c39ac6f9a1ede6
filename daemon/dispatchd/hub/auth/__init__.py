"""Authorization at the hub: credentials come in, and a name or a refusal goes out."""
