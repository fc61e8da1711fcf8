"""How many streams a node serves: measured load, a simulation and a queueing estimate beside it, and plans."""
