"""What depends on the kind of target: multiclass and multi-label."""
