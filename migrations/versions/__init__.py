"""The revisions. A released one is frozen."""
