"""Family: readers of other people's logs, one file each."""
