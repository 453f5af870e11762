"""The figures of the BRAC+ paper, from runs and records of this package."""
