"""Web page of the hub, on which people see and change jobs and machines."""
