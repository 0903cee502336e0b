"""Family: how gradients become updates, one file each."""
