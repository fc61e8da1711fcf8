"""What a run tells about itself: counters, health, metrics, status file."""
