"""What agent and hub agree on: jobs, outcomes, contracts and texts on the wire. Pure; knows neither of them."""
