"""`nerve-build doctor`: what this machine can build and run."""
