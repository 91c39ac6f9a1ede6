"""What strangers may take of the hub: connections, time and places. Nothing in here knows jobs or machines.

Data goes one way: a socket comes in (`accept`), its bytes become requests (`protocol`), a request gets to the routes.
"""
