"""The network and what feeds it, one concept a file; the loop around it is not here."""
