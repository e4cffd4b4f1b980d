"""What a folder of images and masks is recognised as: layout, pairs, classes, names."""
