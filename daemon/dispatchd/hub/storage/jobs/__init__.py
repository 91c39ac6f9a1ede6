"""Jobs in the database, with their claims, turns and checks."""
