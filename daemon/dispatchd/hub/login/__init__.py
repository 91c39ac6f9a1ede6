"""Login of people by other services: a way comes in, and a person with a role or with readable repositories goes out."""
