"""Training classifier and refiner from labelled images."""
