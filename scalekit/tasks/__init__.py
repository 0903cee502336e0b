"""Family: where the tasks come from that a model is scored on, one file each."""
