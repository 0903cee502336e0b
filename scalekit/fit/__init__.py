"""From a table to a fitted law: objective, solver, approaches, uncertainty."""
