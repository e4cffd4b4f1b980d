"""The folder of a run: records, checkpoints, provenance, and the config that is stored in them."""
