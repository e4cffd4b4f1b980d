"""Augmentation: functions of a sample and a seed."""
