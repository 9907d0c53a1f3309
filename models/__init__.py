"""Images in, masks out: classifier, activation maps, trimaps, refiner. Arrays only; no network, no environment."""
