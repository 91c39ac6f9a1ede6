"""The dispatch endpoint over HTTP: requests out, typed answers in. Only it knows wire names."""
