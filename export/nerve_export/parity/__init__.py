"""The bundle held to the reference: runners, taps, measures, reports."""
