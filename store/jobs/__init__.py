"""Jobs: their workflows, their runs, and what follows in a job run when a step ends."""
