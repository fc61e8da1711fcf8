"""The command `nerve-build`."""
