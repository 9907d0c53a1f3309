"""Pages for leads: what is served, what is being trained, how good it is, and the buttons that change it."""
