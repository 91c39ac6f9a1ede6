"""The Dagu engine: attempts as runs of a DAG, recorded under an id of ours, then enqueued."""
