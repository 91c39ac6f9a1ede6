"""The dispatch endpoint over HTTP; the only place that knows wire names."""
