"""Lock-step runs over event time: where requests and their outcomes come from, and the driver."""
