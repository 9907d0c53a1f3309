"""`premask demo`: a real Label Studio, the backend and a sample project, started together; read `run.py` first."""
