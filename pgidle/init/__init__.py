"""`pgidle init`: configuration files for the platforms that start, stop and check a pgidle."""
