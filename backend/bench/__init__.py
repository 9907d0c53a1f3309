"""`premask bench`: what is fast and by how much, side by side; `cases.py` lists what is compared."""
