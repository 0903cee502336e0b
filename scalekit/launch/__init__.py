"""From runs that are missing to an executor that has them, each exactly once."""
