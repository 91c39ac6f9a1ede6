"""Web page of the hub: jobs and machines for people, to look at and to change."""
