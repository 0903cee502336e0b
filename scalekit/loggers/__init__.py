"""Family: where a run is shown while it goes, beside its record."""
