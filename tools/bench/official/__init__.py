"""Networks of this project in the formulation of their authors' code, to be timed and measured beside ours."""
