"""Work that outlives a request: a queue, the records of its jobs, and the worker that does them."""
