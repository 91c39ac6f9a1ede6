"""Agreement of agent and hub: jobs, outcomes, contracts and texts on the wire. Pure; knows neither of them."""
