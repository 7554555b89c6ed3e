"""What a request saw, the labels that came of it, and their join into samples.

The join is pure. Knows neither Faust nor, but for handing samples to it, torch.
"""
