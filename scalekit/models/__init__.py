"""Family: architectures, one file each."""
