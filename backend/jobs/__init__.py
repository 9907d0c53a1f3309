"""Work that outlives a request: the queue of jobs, the work of each kind of job, and the processes that do it."""
