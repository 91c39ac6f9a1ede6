"""What the hub decides, without storage, clock or HTTP.

Data goes one way: a job and an event come in, the job as it is afterwards goes out.
"""
