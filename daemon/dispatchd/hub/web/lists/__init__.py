"""Pages of lists: jobs, queue, machines and deliveries. Each page reads the stores, and a pure module words what it shows."""
