"""Delivery of run folders to MLflow."""
