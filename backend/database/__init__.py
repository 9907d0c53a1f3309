"""What is known and must survive: jobs, leases, credentials."""
