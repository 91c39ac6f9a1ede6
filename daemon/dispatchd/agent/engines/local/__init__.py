"""The local engine: attempts as child processes of this machine, behind a gate and walls."""
