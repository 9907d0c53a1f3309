"""State that outlives the processes: jobs, leases, credentials."""
