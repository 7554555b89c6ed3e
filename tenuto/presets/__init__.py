"""Ready-made sets of events, features and labels: ordinary values to import, trim or leave out."""
