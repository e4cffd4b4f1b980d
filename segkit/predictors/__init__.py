"""From a model to predictions of images of any size."""
