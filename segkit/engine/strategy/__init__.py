"""Precision and placement: what stands between the loop and the hardware."""
