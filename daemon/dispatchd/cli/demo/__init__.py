"""The command `dispatchd demo`: a play with a hub and a machine of its own.

Data goes from the command through the acts to the stage, on which hub and machine are started, killed and asked.
"""
