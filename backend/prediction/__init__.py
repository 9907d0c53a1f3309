"""Between HTTP and the networks: answers within a deadline, leases, caches, prompts."""
