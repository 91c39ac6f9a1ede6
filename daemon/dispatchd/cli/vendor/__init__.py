"""Commands for vendors who ship the agent: judging an endpoint, signing licenses."""
