"""The Slurm engine: attempts as batch jobs of a cluster, submitted held, recorded, then released."""
