"""`dispatchd service`: systemd units, users, folders and a first configuration, out of the package and onto the machine."""
