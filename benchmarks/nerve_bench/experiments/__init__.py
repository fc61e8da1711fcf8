"""The paper's experiments, its open questions and what may be better than it, on scenes of the world."""
