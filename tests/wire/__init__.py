"""Raw bytes at both ends: a table of cases, in files that a person can read and add to."""
