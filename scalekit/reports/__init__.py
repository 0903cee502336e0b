"""Family: reports for people."""
