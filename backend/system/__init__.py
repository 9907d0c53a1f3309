"""Files, processes, logs and metrics: nothing of premask."""
