"""Measures Coatcheck beside what people use today, in one interleaved run: `make bench`, or `python -m bench --help`."""
